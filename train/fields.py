"""Recipe tables: read TOML or JSON values into frozen dataclasses, with a one-line error for every mistake.

A field is a number, a text, a choice (``Literal``), a fixed number of integers (``tuple``), any number of texts or tables (``tuple`` with an
ellipsis), a table (another dataclass, perhaps none), or tables by name (``Mapping``). A field declares its range where it is declared, once for the check,
``isoform train --help`` and docs/recipes.md:

    steps: Annotated[int, Between(1, 1e8)]
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from isoform.runtime.errors import RecipeError, SpecError

__all__ = ["Between", "Table", "fields_of", "ranges_of", "read_table", "table_of"]


@dataclasses.dataclass(frozen=True)
class Between:
    """The range of a field's number, or of each of its numbers; both ends are included, unless ``above``."""

    low: float | str
    """The least, or the name of the field whose value is the least."""
    high: float
    above: bool = False
    """Whether ``low`` itself is out of the range."""

    def check(self, table: object, name: str) -> None:
        """Check a field of a table. Raises ``RecipeError``, for NaN as well."""
        value = getattr(table, name)
        low: float = getattr(table, self.low) if isinstance(self.low, str) else self.low
        several = isinstance(value, tuple)
        # One chained comparison under "not": with NaN it is false, so NaN is out of every range.
        if not all(
            low <= one <= self.high and not (self.above and one == low) for one in (value if several else [value])
        ):
            raise RecipeError(
                f"{name} is {list(value) if several else value}, but {'above ' * self.above}{low:g} to {self.high:g} was expected{' of each' * several}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a recipe, whose fields are in the ranges that they declare."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        table: Any = type(self)
        ranges = ranges_of(table)
        # those that refer to another field come last, when that one is known to be in its own range
        for name in sorted(ranges, key=lambda name: isinstance(ranges[name].low, str)):
            ranges[name].check(self, name)


def fields_of(table: Any) -> dict[str, Any]:
    """Return name → type of a table's fields, in order; ``table`` is the dataclass."""
    # get_type_hints, because under ``from __future__ import annotations`` a field's own type is only a text.
    hints = get_type_hints(table)
    return {field.name: hints[field.name] for field in dataclasses.fields(table)}


def table_of(hint: Any) -> Any | None:
    """Return the dataclass of a field that is a table, or may be one; None of any other field."""
    return next(
        (
            one
            for one in (hint, *get_args(hint)[:1])
            if get_origin(hint) in (None, types.UnionType) and dataclasses.is_dataclass(one)
        ),
        None,
    )


@functools.cache
def ranges_of(table: Any) -> dict[str, Between]:
    """Return name → range of the fields that declare one."""
    hints = get_type_hints(table, include_extras=True)
    return {
        field.name: extra
        for field in dataclasses.fields(table)
        if get_origin(hints[field.name]) is Annotated
        for extra in get_args(hints[field.name])[1:]
        if isinstance(extra, Between)
    }


def read_table(table: Any, value: object, where: str) -> Any:
    """Read one table, and those inside it.

    Args:
        table: The dataclass to build.
        value: The value in the file.
        where: Name of the place for errors.

    Raises:
        RecipeError: If a field is unknown, missing, of the wrong type or out of range; the message names it.
    """
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where} is a {type(value).__name__}, but a table was expected")
    hints = fields_of(table)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise RecipeError(f"{where} has an unknown field {unknown[0]!r}; its fields are {', '.join(hints)}")
    missing = [
        field.name
        for field in dataclasses.fields(table)
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in value
    ]
    if missing:
        raise RecipeError(f"{where} has no field {missing[0]!r}, which is required")
    try:
        return table(**{name: _converted(hints[name], entry, f"{where}, {name}") for name, entry in value.items()})
    except (RecipeError, SpecError) as problem:
        # A field's error has named the place already; one from __post_init__ does not know it.
        raise RecipeError(str(problem) if str(problem).startswith(where) else f"{where}, {problem}") from None


def _converted(hint: Any, value: object, where: str) -> Any:
    if (table := table_of(hint)) is not None:
        return read_table(table, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        expected = " or ".join(repr(a) for a in arguments)
    elif origin is tuple and arguments[-1] is Ellipsis:
        if isinstance(value, list | tuple):
            return tuple(
                _converted(arguments[0], entry, f"{where}, number {place}") for place, entry in enumerate(value)
            )
        expected = "a list of tables" if dataclasses.is_dataclass(arguments[0]) else "a list of texts"
    elif origin is tuple:
        # type() instead of isinstance(), because True is an int.
        if isinstance(value, list | tuple) and len(value) == len(arguments) and all(type(v) is int for v in value):
            return tuple(value)
        expected = f"{len(arguments)} whole numbers"
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {key: read_table(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
        expected = "a table"
    # The bound refuses inf and nan, which TOML can write, and integers too large for a float.
    elif hint is float and type(value) in (int, float) and abs(typing.cast(float, value)) < 1e300:
        return float(typing.cast(float, value))
    elif type(value) is hint:
        return value
    else:
        expected = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[hint]
    raise RecipeError(f"{where} is {repr(value)[:80]}, but {expected} was expected")
