"""Tensor files: safetensors in one canonical form, so that the same content has the same bytes.

    u64 little-endian   n, the header's length (a multiple of 8)
    n bytes             JSON without spaces, keys sorted ("__metadata__" first), then spaces up to n
    the rest            the tensors in the order of their names, row-major, little-endian, without gaps

safetensors' own writer orders metadata by a random hash seed, so this module has its own. Files are read with safetensors' parser,
which checks lengths, dtypes, overlaps and gaps; then the canonical form is checked here. Pickle is never used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors

from isoform.runtime.arrays import Array
from isoform.runtime.errors import IsoformError

__all__ = ["decode", "encode", "metadata_of"]

HEADER_LIMIT = 1 << 20
"""Maximum length of a header, in bytes; that of a signature has about 700, of a checkpoint with many tasks some 100,000."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "U8": np.dtype("u1"), "I8": np.dtype("i1"), "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
}  # fmt: skip
_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_NAMES = {value: key for key, value in _DTYPES.items()}


def encode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Encode a tensor file.

    Args:
        tensors: Name → array, float32, float16, or integers of 8, 16, 32 or 64 bits.
        metadata: Strings for the header.

    Returns:
        The file's content, which depends on nothing but the arguments.

    Raises:
        IsoformError: If names and metadata exceed the maximum length of a header.
    """
    arrays = [np.ascontiguousarray(tensors[name]) for name in sorted(tensors)]
    arrays = [array.astype(array.dtype.newbyteorder("<"), copy=False) for array in arrays]
    text = _header(
        zip(sorted(tensors), (_NAMES[a.dtype] for a in arrays), (a.shape for a in arrays), strict=True), metadata
    )
    if len(text) > HEADER_LIMIT:
        raise IsoformError(
            f"the names and metadata of a tensor file take {len(text):,} bytes, but at most {HEADER_LIMIT:,} can be read back"
        )
    return b"".join([len(text).to_bytes(8, "little"), text, *(array.tobytes() for array in arrays)])


def _header(tensors: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]) -> bytes:
    """Return the header of tensors with these names, dtypes and shapes, in this order."""
    content: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name, dtype, shape in tensors:
        end = start + _DTYPES[dtype].itemsize * math.prod(shape)
        content[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = _JSON.encode(content).encode()
    return text + b" " * (-len(text) % 8)  # padding aligns the tensors to 8 bytes


def decode(data: bytes, *, error: type[IsoformError], what: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Decode an untrusted tensor file.

    Args:
        data: The file's content.
        error: The class of error to raise.
        what: Name of the file in messages.

    Returns:
        Name → array (a fresh, writable copy of its bytes), and the metadata.

    Raises:
        IsoformError: Of the class ``error``, if the bytes are not a canonical tensor file of such arrays.
    """
    metadata = metadata_of(data, error=error, what=what)
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as problem:
        said = " ".join(str(problem).splitlines())  # the parser quotes names from the file, which may have line breaks
        raise error(f"{what} is not a valid tensor file: {said}") from None
    tensors: dict[str, Array] = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise error(f"{what} stores {name!r} as {entry['dtype']}, but one of {', '.join(_DTYPES)} was expected")
        try:
            # safetensors returns bytearrays: the arrays are writable without another copy
            tensors[name] = np.frombuffer(entry["data"], dtype=_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        except ValueError:
            raise error(
                f"{what} stores {name!r} in a shape of {len(entry['shape'])} dimensions that no array can have"
            ) from None
    order = sorted((name, entry["dtype"], entry["shape"]) for name, entry in entries)
    # Encoding anew finds whatever differs: spaces, order, escapes, a key that is given twice.
    if _header(order, metadata) != data[8 : 8 + int.from_bytes(data[:8], "little")]:
        raise error(f"{what} is not in canonical form, so it was changed after isoform wrote it")
    return tensors, metadata


def metadata_of(data: bytes, *, error: type[IsoformError], what: str) -> dict[str, str]:
    """Return the metadata of an untrusted tensor file, which tells what it holds. The rest of the file is not checked.

    Raises:
        IsoformError: Of the class ``error``, if the file is cut short, or has no header with metadata of strings.
    """
    if len(data) < 8:
        raise error(
            f"{what} is {len(data)} bytes long, but a tensor file starts with 8 bytes of header length; it was cut short or is not a tensor file"
        )
    length = int.from_bytes(data[:8], "little")
    if length > HEADER_LIMIT:
        raise error(
            f"{what} claims a header of {length:,} bytes, but at most {HEADER_LIMIT:,} are read; it is not a tensor file"
        )
    if len(data) < 8 + length:
        raise error(f"{what} is cut short: its header should be {length} bytes long, but {len(data) - 8} follow")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        raise error(f"{what} has a header that is not JSON; it is not a tensor file") from None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise error(f"{what} has no metadata of strings in its header, so it was not written by isoform")
    return metadata
