"""JSON in a signature's metadata, labels and shapes of bits, in canonical form, because a digest must identify exactly one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from isoform.runtime.arrays import Array
from isoform.runtime.errors import SignatureError
from isoform.runtime.formats.numbers import unpacked

__all__ = ["read_bits", "read_labels", "to_text"]


def to_text(value: object) -> str:
    """Encode a value as canonical JSON: no spaces, only necessary escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_labels(text: str | None) -> tuple[str, ...] | None:
    """Decode class labels; None for None. Raises ``SignatureError`` if they are malformed or not canonical."""
    if text is None:
        return None
    labels = _parsed(text)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise SignatureError("its labels are not a JSON list of strings")
    _check_form(text, labels, "labels")
    return tuple(labels)


def read_bits(text: str | None, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Unpack the bit parts of a file to bool. Raises ``SignatureError`` as ``read_labels``, or if the arrays do not fit."""
    if text is None:
        return {}
    shapes = _parsed(text)
    if (
        not isinstance(shapes, dict)
        or not shapes
        or list(shapes) != sorted(shapes)  # of the orders that JSON allows, only one is canonical
        or not set(shapes) <= set(arrays)
        or not all(map(_is_shape, shapes.values()))
    ):
        raise SignatureError("its bits are not a JSON object of part names and shapes")
    _check_form(text, shapes, "bits")
    return {name: unpacked(name, arrays[name], shape) for name, shape in shapes.items()}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 < size < 1 << 31 for size in value)


def _check_form(text: str, value: object, what: str) -> None:
    if to_text(value) != text:
        raise SignatureError(f"its {what} are not in canonical form, so they were changed after isoform wrote them")
