"""Tables of a recipe: frozen dataclasses, read from what TOML or JSON hold, with every mistake named in one line.

A field is a number, a text, a choice (``Literal``), a row of whole numbers (``tuple``), a table (another dataclass), or a table of
tables by name (``Mapping``). A table checks its own ranges in ``__post_init__``, by ``between``.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from isoform.runtime.errors import RecipeError

__all__ = ["between", "fields_of", "read_table"]


def between(section: object, name: str, low: float, high: float) -> None:
    """Check a field's range, both ends included. Raises ``RecipeError``; a number that is not one (NaN) is out of any range."""
    value = getattr(section, name)
    if not low <= value <= high:
        raise RecipeError(f"{name} is {value}, but {low:g} to {high:g} was expected")


def fields_of(table: Any) -> dict[str, Any]:
    """Name → type of a table's fields, in order; ``table`` is the dataclass."""
    hints = get_type_hints(table)
    return {field.name: hints[field.name] for field in dataclasses.fields(table)}


def read_table(table: Any, value: object, where: str) -> Any:
    """Read one table, and those inside it.

    Args:
        table: The dataclass that it becomes.
        value: What the file holds.
        where: What to call the place in errors.

    Raises:
        RecipeError: Naming the field that is unknown, missing, of the wrong type or out of range.
    """
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where} is a {type(value).__name__}, but a table was expected")
    hints = fields_of(table)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise RecipeError(f"{where} has an unknown field {unknown[0]!r}; it may have {', '.join(hints)}")
    missing = [
        field.name
        for field in dataclasses.fields(table)
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in value
    ]
    if missing:
        raise RecipeError(f"{where} lacks the field {missing[0]!r}")
    try:
        return table(**{name: _converted(hints[name], entry, f"{where}, {name}") for name, entry in value.items()})
    except RecipeError as problem:
        raise RecipeError(str(problem) if str(problem).startswith(where) else f"{where}, {problem}") from None


def _converted(hint: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return read_table(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        expected = " or ".join(repr(a) for a in arguments)
    elif origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(arguments) and all(type(v) is int for v in value):
            return tuple(value)
        expected = f"{len(arguments)} whole numbers"
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {key: read_table(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
        expected = "a table"
    elif hint is float and type(value) in (int, float) and abs(typing.cast(float, value)) < 1e300:
        return float(typing.cast(float, value))
    elif type(value) is hint:
        return value
    else:
        expected = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[hint]
    raise RecipeError(f"{where} is {repr(value)[:80]}, but {expected} was expected")
