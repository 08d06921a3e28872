"""Representation of a signature's parts in memory and in files: floats, integers and bits.

    float     float32 in memory; float32 or float16 in a file, the same for all parts
    integer   int64 in memory; in a file the first of uint8, int8, uint16, int16, int32 and int64 that can hold all values of the part
    bit       bool in memory; packed in a file, eight per byte, the first in the most significant bit, the last byte padded with zeros

Every array has exactly one representation in files, because a digest must identify exactly one file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import SignatureError
from isoform.runtime.kind import Part

__all__ = ["in_file", "in_memory", "unpacked"]

_INTEGERS: tuple[np.dtype[Any], ...] = tuple(map(np.dtype, ("u1", "i1", "<u2", "<i2", "<i4", "<i8")))
_WORDS = {"float": "floating-point numbers", "integer": "whole numbers", "bit": "bits"}


def in_memory(name: str, array: Array, part: Part, *, precision: Literal["float32", "float16"]) -> Array:
    """Check a part, and convert it to its representation in memory, read-only.

    Args:
        name: Name of the part in messages.
        array: The array. Its values are not changed, but it becomes read-only if no conversion is needed.
        part: The expected type.
        precision: Precision that floats are rounded to.

    Raises:
        SignatureError: If the array has another type or rank, is empty, or is not finite in that precision.
    """
    kinds = {"float": "f", "integer": "iu", "bit": "b"}[part.numbers]
    if array.dtype.kind not in kinds or array.ndim != part.dimensions or 0 in array.shape:
        raise SignatureError(
            f"a signature's {name} is {array.dtype} of shape {array.shape}, but {_WORDS[part.numbers]} in {part.dimensions} dimension(s) "
            "were expected"
        )
    if part.numbers == "integer":
        # astype would wrap around without an error
        if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
            raise SignatureError(
                f"a signature's {name} holds {array.max()}, but whole numbers of 64 bits with a sign were expected"
            )
        array = array.astype(np.int64)
    elif part.numbers == "float":
        if array.dtype != np.float32 or precision != "float32":
            # a float16 overflow is reported by the check that follows
            with np.errstate(over="ignore"):
                array = array.astype(precision).astype(np.float32)
        if not np.isfinite(array).all():
            raise SignatureError(
                f"a signature's {name} holds a number that is not finite in {precision}; it cannot be used"
            )
    array.flags.writeable = False
    return array


def in_file(array: Array, part: Part, *, precision: Literal["float32", "float16"]) -> Array:
    """Convert a part to its representation in files."""
    if part.numbers == "float":
        return array.astype(precision)
    if part.numbers == "bit":
        return np.packbits(array.ravel())
    low, high = int(array.min()), int(array.max())
    return array.astype(next(kind for kind in _INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max))


def unpacked(name: str, array: Array, shape: Sequence[int]) -> Array:
    """Unpack the bits of a file to bool of that shape. Raises ``SignatureError`` if the size is wrong or padding bits are not 0."""
    count = math.prod(shape)
    if array.dtype != np.uint8 or array.shape != (-(-count // 8),):
        raise SignatureError(
            f"its {name} has {array.dtype} of shape {array.shape}, but {count} bits take {-(-count // 8)} bytes"
        )
    bits = np.unpackbits(array)
    if bits[count:].any():
        raise SignatureError(f"its {name} has padding bits that are not 0, so it was changed after isoform wrote it")
    return bits[:count].astype(bool).reshape(shape)
