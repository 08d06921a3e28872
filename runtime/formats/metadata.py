"""JSON inside files, from strangers: labels and shapes of bits in a signature's metadata, and the objects that describe networks.

What a signature holds is in canonical form, because a digest must identify exactly one file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from isoform.runtime.arrays import Array
from isoform.runtime.errors import SignatureError, SpecError
from isoform.runtime.formats.numbers import unpacked

__all__ = ["members_of", "read_bits", "read_labels", "to_text"]


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


def members_of(table: Any, value: object, what: str) -> dict[str, Any]:
    """Return the members of an object, lists as tuples.

    Args:
        table: The dataclass whose fields they must be.
        value: What a file holds.
        what: Name of the object for errors.

    Raises:
        SpecError: If it is not an object, or a member is unknown or missing.
    """
    if not isinstance(value, Mapping):
        raise SpecError(f"{what} is a {type(value).__name__}, but an object was expected")
    fields = {field.name: field for field in dataclasses.fields(table)}
    unknown = sorted(set(value) - set(fields))
    missing = sorted(
        name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in value
    )
    if unknown or missing:
        raise SpecError(f"{what} has unknown fields {unknown} and lacks {missing}")
    return {name: tuple(entry) if isinstance(entry, list) else entry for name, entry in value.items()}
