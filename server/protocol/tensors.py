"""Decode the tensors of a request, from its JSON or from the bytes after it. Errors give the JSON path.

Samples are FP32, or INT64 for tokens; labels are BYTES (names) or INT64 (indices of classes, refused where class names are other whole numbers).
Binary numbers are little-endian and row-major; a binary text is its length, four bytes, and its UTF-8.
"""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Collection
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Input
from isoform.runtime.samples.names import LONGEST
from isoform.server.protocol.bounds import Bounds
from isoform.server.protocol.metadata import datatype_of
from isoform.server.protocol.parameters import IN_INPUT, check_parameters

__all__ = [
    "Tail",
    "brief",
    "declared_shape",
    "kind_of",
    "one_sample",
    "parameters_of",
    "read_labels",
    "read_samples",
    "samples_from_bytes",
]


class Tail:
    """The bytes after the JSON; binary inputs consume them in order."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def take(self, size: object, path: str) -> memoryview:
        """Consume the next ``size`` bytes. Raises ``InputError`` if the size is invalid or exceeds what is left."""
        if type(size) is not int or not 0 <= size <= len(self._data):
            raise InputError(
                f"{path}.parameters.binary_data_size: at most {len(self._data)}, the number of bytes after the JSON, was expected, but {brief(size)} came"
            )
        found, self._data = self._data[:size], self._data[size:]
        return found

    def check_empty(self) -> None:
        """Raise ``InputError`` if bytes are left that belong to no input."""
        if len(self._data):
            raise InputError(f"$.inputs: {len(self._data)} bytes after the JSON belong to no input's binary_data_size")


def parameters_of(owner: dict[str, Any], path: str, known: Collection[str]) -> dict[str, Any]:
    """An object's ``parameters``; empty if absent. Raises ``InputError`` if they are not an object, or one is unknown."""
    found = owner.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(f"{path}.parameters: an object was expected, but a {kind_of(found)} came")
    check_parameters(found, path, known)
    return found


def read_samples(tensor: dict[str, Any], takes: Input, tail: Tail, path: str, bounds: Bounds) -> Array:
    """Decode a tensor's samples, shape (n, …), in the input's dtype. Raises ``InputError`` if they are malformed."""
    declared = declared_shape(tensor, takes, path)
    # Before the data is looked at: a declared shape alone can ask for a huge allocation.
    bounds.check_samples(declared[0])
    data = _binary(tensor, tail, path)
    if data is not None:
        return samples_from_bytes(data, takes, declared, path)
    return _from_list(tensor["data"], takes, declared, f"{path}.data")


def declared_shape(tensor: dict[str, Any], takes: Input, path: str) -> list[int]:
    """The declared shape ``[n, …]`` of a tensor of samples. Raises ``InputError`` if it does not fit the input."""
    declared = _declared(tensor, (datatype_of(takes),), path)
    if not declared or not takes.fits(tuple(declared[1:])):
        raise InputError(f"{path}.shape: [{str(takes)[1:-1]}] was expected, but {brief(declared)} came")
    return declared


def one_sample(size: int, takes: Input, what: str) -> list[int]:
    """The shape ``[1, …]`` of one sample of that many bytes; a single open length is inferred. Raises ``InputError`` if no shape fits."""
    each = np.dtype(takes.dtype).itemsize
    row = each * math.prod(length for length in takes.shape if length is not None)
    length = size // row if takes.open and takes.shape.count(None) == 1 else 0
    shape = [length if entry is None else entry for entry in takes.shape]
    if takes.open and not takes.fits(tuple(shape)):
        raise InputError(f"{what}: one sample of shape {takes} was expected, but {size} bytes came")
    return [1, *shape]


def samples_from_bytes(data: memoryview, takes: Input, shape: list[int], what: str) -> Array:
    """Decode little-endian numbers; a view of the bytes where possible. Raises ``InputError`` if their count does not match the shape."""
    kind, name = np.dtype(takes.dtype), datatype_of(takes)
    expected = kind.itemsize * math.prod(shape)
    if len(data) != expected:
        raise InputError(f"{what}: {expected} bytes were expected for shape {shape} in {name}, but {len(data)} came")
    # astype copies on big-endian machines only.
    return np.frombuffer(data, dtype=kind.newbyteorder("<")).reshape(shape).astype(kind, copy=False)


def read_labels(tensor: dict[str, Any], tail: Tail, path: str, *, samples: int) -> list[str] | list[int]:
    """Decode a label tensor: names or indices, one per sample. Raises ``InputError`` if they are malformed."""
    declared = _declared(tensor, ("BYTES", "INT64"), path)
    # [n, 1] is accepted besides [n]: some clients give every tensor a second dimension.
    if len(declared) not in (1, 2) or (len(declared) == 2 and declared[1] != 1):
        raise InputError(f"{path}.shape: [n] was expected, but {brief(declared)} came")
    if declared[0] != samples:
        raise InputError(f"{path}.shape: one label per sample was expected, {samples} in all, but {declared[0]} came")
    data, kind = _binary(tensor, tail, path), str if tensor["datatype"] == "BYTES" else int
    if data is None:
        found = tensor["data"]
        if isinstance(found, list) and all(isinstance(entry, list) and len(entry) == 1 for entry in found):
            found = [entry[0] for entry in found]
        if not isinstance(found, list) or not all(type(entry) is kind for entry in found):
            raise InputError(
                f"{path}.data: a list of {'texts' if kind is str else 'whole numbers'} was expected, but something else came"
            )
    elif kind is int:
        if len(data) != 8 * samples:
            raise InputError(f"{path}: {8 * samples} bytes of INT64 were expected, but {len(data)} came")
        found = np.frombuffer(data, dtype="<i8").tolist()
    else:
        found = _texts(data, samples, path)
    if len(found) != samples:
        raise InputError(f"{path}: {samples} labels were expected, but {len(found)} came")
    if kind is str and any(len(label) > LONGEST for label in found):
        raise InputError(f"{path}: labels of at most {LONGEST} characters were expected, but a longer one came")
    labels: list[str] | list[int] = found
    return labels


def _texts(data: memoryview, count: int, path: str) -> list[str]:
    found, place = list[str](), 0
    while place < len(data):
        if len(found) == count:
            raise InputError(f"{path}: {count} labels were expected, but more came")
        size = int.from_bytes(data[place : place + 4], "little")
        text = data[place + 4 : place + 4 + size]
        # A character has at most 4 bytes in UTF-8, so a text that is too long is refused before it is copied.
        if place + 4 + size <= len(data) and size > 4 * LONGEST:
            raise InputError(
                f"{path}: labels of at most {LONGEST} characters were expected, but one of {size} bytes came"
            )
        if place + 4 + size > len(data):
            raise InputError(
                f"{path}: a text of {size} bytes was announced, but {max(0, len(data) - place - 4)} follow"
            )
        try:
            found.append(bytes(text).decode())
        except UnicodeDecodeError:
            raise InputError(f"{path}: a text is not UTF-8") from None
        place += 4 + size
    return found


def _declared(tensor: dict[str, Any], datatypes: tuple[str, ...], path: str) -> list[int]:
    if tensor.get("datatype") not in datatypes:
        raise InputError(
            f"{path}.datatype: {' or '.join(map(repr, datatypes))} was expected, but {brief(tensor.get('datatype'))} came"
        )
    declared = tensor.get("shape")
    # By type, because JSON's true is an int to isinstance; and bounded, so that products of sizes stay small numbers.
    if not isinstance(declared, list) or not all(type(v) is int and 0 <= v <= 1 << 31 for v in declared):
        raise InputError(f"{path}.shape: a list of whole numbers was expected, but {brief(declared)} came")
    return declared


def _binary(tensor: dict[str, Any], tail: Tail, path: str) -> memoryview | None:
    """The bytes of a binary tensor; None if its numbers are in the JSON."""
    size = parameters_of(tensor, path, IN_INPUT).get("binary_data_size")
    if size is not None and "data" in tensor:
        raise InputError(f"{path} has both data and parameters.binary_data_size; send one of them")
    if size is None and "data" not in tensor:
        raise InputError(f"{path}.data: a list of numbers was expected, but nothing came")
    return None if size is None else tail.take(size, path)


def _from_list(data: object, takes: Input, shape: list[int], path: str) -> Array:
    """An array from a flat list, or from lists nested as the shape. The array is allocated only after all entries are checked."""
    if not isinstance(data, list):
        raise InputError(f"{path}: a list of numbers was expected, but a {kind_of(data)} came")
    nested = bool(data) and isinstance(data[0], list)
    sizes = shape if nested else [math.prod(shape)]
    rows: list[Any] = [data]
    for depth, size in enumerate(sizes):
        for row in rows:
            if type(row) is not list or len(row) != size:
                came = f"a list of {len(row)}" if isinstance(row, list) else f"a {kind_of(row)}"
                raise InputError(
                    f"{path}: {math.prod(shape)} numbers or lists of shape {shape} were expected, but {came} came{' inside' * bool(depth)}"
                )
        if depth < len(sizes) - 1:
            rows = [*itertools.chain.from_iterable(rows)]
    # Not left to numpy, which would read "1.5", true and null as 1.5, 1 and NaN.
    kinds = set(map(type, itertools.chain.from_iterable(rows)))
    allowed, words = ({int}, "whole numbers") if takes.what == "tokens" else ({int, float}, "numbers")
    if not kinds <= allowed:
        raise InputError(f"{path}: {words} were expected, but something else is among them")
    try:
        # Numbers beyond float32 become infinite here; a later check refuses samples that are not finite.
        with np.errstate(over="ignore"):
            return np.array(data, dtype=takes.dtype).reshape(shape)
    except OverflowError:
        raise InputError(f"{path}: a whole number among them is too large for {datatype_of(takes)}") from None


def kind_of(value: object) -> str:
    """The JSON type of a value, for messages."""
    names = {
        dict: "object",
        list: "list",
        str: "text",
        bool: "boolean",
        int: "number",
        float: "number",
        type(None): "null",
    }
    return names[type(value)]


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 80
_BRIEF.maxlist = 12


def brief(value: object) -> str:
    """A value quoted for a message, shortened if it is long."""
    return _BRIEF.repr(value)
