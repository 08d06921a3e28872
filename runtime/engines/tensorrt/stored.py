"""Engines on disk: in a bundle, where ``isoform compile --target`` puts them, and in the user's cache.

    8 bytes "ISOTRT01", 32 bytes sha256 of the rest, u32 little-endian n, n bytes of JSON (``EngineKey``), the engine

An engine runs on the architecture and with the version it was built for, so both are in its key, with the digest of its form. An
engine that is read is executed: a file of another user is refused (``ownership.py``), and a bundle's engines are as trusted as the bundle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from isoform.runtime.errors import EngineError
from isoform.runtime.formats import files

__all__ = ["KERNEL_PRODUCT", "EngineKey", "decode_engine", "encode_engine", "engine_name", "read_engine"]

MAGIC = b"ISOTRT01"
SIZE_LIMIT = 2 << 30
KERNEL_PRODUCT = "nvrtc"
"""In the place of a product: what compiled a kernel, which is stored like an engine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What an engine depends on."""

    product: str
    """A key of ``products.PRODUCTS``, or ``KERNEL_PRODUCT``."""
    version: str
    """The product's version."""
    devices: tuple[str, ...]
    """Architectures it was built for, such as sm89; or the GPU's name and driver, if it was built for the one at hand."""
    graph: str
    """Name of the graph."""
    form: str
    precision: str
    digest: str
    """sha256 of the form's ONNX file, or of a kernel's source."""
    structure: str
    """sha256 of the form without its shared weights; empty if it is not known."""
    shared: str
    """One of ``builder.SHARED``."""
    largest_batch: int

    @property
    def alike(self) -> Self:
        """The key without what a refit changes."""
        return dataclasses.replace(self, digest="")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**dataclasses.asdict(self), "devices": list(self.devices)}


def engine_name(key: EngineKey) -> str:
    """Return the file name of an engine: what it is, and a hash of its key."""
    digest = hashlib.sha256(json.dumps(key.to_json(), sort_keys=True).encode()).hexdigest()
    return f"{key.graph}.{key.form}.{key.precision}.{key.product}.{digest[:16]}.engine"


def encode_engine(key: EngineKey, engine: bytes) -> bytes:
    """Return the file's content."""
    header = json.dumps(key.to_json(), sort_keys=True).encode()
    rest = len(header).to_bytes(4, "little") + header + engine
    return MAGIC + hashlib.sha256(rest).digest() + rest


def decode_engine(data: bytes, *, name: str) -> tuple[EngineKey, bytes]:
    """Read a file's content; ``name`` is for errors. Raises ``EngineError`` if it is damaged."""
    rest = data[40:]
    if data[:8] != MAGIC or data[8:40] != hashlib.sha256(rest).digest():
        raise EngineError(f"{name} is damaged, or no engine of isoform's; build it again")
    try:
        length = int.from_bytes(rest[:4], "little")
        header = json.loads(rest[4 : 4 + length])
        key = EngineKey(**{**_known(header), "devices": tuple(map(str, header["devices"]))})
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise EngineError(f"{name} has a malformed key: {problem}; build it again") from None
    return key, rest[4 + length :]


def _known(header: object) -> Mapping[str, Any]:
    if not isinstance(header, dict):
        raise TypeError("it is no object")
    return header


def read_engine(path: Path) -> tuple[EngineKey, bytes]:
    """Read an engine. Raises ``EngineError`` if it is missing or damaged."""
    return decode_engine(files.read_bytes(path, limit=SIZE_LIMIT, error=EngineError, what="engine"), name=str(path))
