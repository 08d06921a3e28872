"""The tables and fields of recipes in words, taken from the dataclasses: types, defaults, declared ranges, and the docstrings below fields.

    sections(MixtureRecipe)  →  Section "" (steps, batch, …), Section "data" (input_shape, …), Section "network", …

Must never import torch: ``isoform train --help`` is made of this.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import textwrap
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from isoform.train.fields import Between, Table, fields_of, ranges_of, table_of

__all__ = ["Described", "Section", "sections"]

TYPES = {int: "a whole number", float: "a number", str: "a text", bool: "`true` or `false`"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """A field in words; code in the texts is between backticks."""

    name: str
    """Name in its table."""
    type: str
    """What it takes: ``a whole number``, ``3 whole numbers``, or its choices."""
    range: str
    """Range of its numbers: ``1 to 256``; empty if there is none."""
    default: str
    """The default as TOML; empty if the field is required, or has tables."""
    meaning: str
    """The docstring below the field; empty if there is none, or Python has no source code."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A table of a recipe in words."""

    name: str
    """Dotted name, ``data.sound``; empty for the top of the file."""
    heading: str
    """How it begins in TOML: ``[data]``, ``[[layers]]``, ``[tasks.<name>]``; empty for the top of the file."""
    about: str
    """First paragraph of the dataclass's docstring; of a dataclass that is not only for recipes, the docstring below the field."""
    table: Any
    """The dataclass."""
    fields: tuple[Described, ...]
    """Its fields, without those that are tables."""


def sections(table: Any, *, name: str = "", heading: str = "", about: str = "") -> list[Section]:
    """Describe a table and those inside it.

    Args:
        table: The dataclass, such as ``MixtureRecipe``.
        name: Dotted name of the table; empty for a recipe.
        heading: As ``Section.heading``.
        about: The docstring below the field that has the table.

    Returns:
        The table itself first, then the others in the order of their fields.
    """
    meanings, ranges = _docstrings(table), ranges_of(table)
    described, inside = list[Described](), list[Section]()
    for field in dataclasses.fields(table):
        hint, path = fields_of(table)[field.name], f"{name}.{field.name}".lstrip(".")
        if (inner := table_of(hint)) is not None:
            inside += sections(inner, name=path, heading=f"[{path}]", about=meanings.get(field.name, ""))
            continue
        if (inner := _several(hint)) is not None:
            marked = (
                f"[[{path}]]" if get_origin(hint) is tuple else f"[{path}.<{'name' if path == 'tasks' else 'task'}>]"
            )
            inside += sections(inner, name=path, heading=marked)
        described.append(
            Described(
                name=field.name, type=_type(hint, path), default=_default(field, tables=inner is not None),
                range=_range(ranges.get(field.name), several=get_origin(hint) is tuple), meaning=meanings.get(field.name, ""),
            )
        )  # fmt: skip
    if issubclass(table, Table):
        about = (inspect.getdoc(table) or "").split("\n\n")[0]
    return [Section(name=name, heading=heading, about=_plain(about), table=table, fields=tuple(described)), *inside]


@functools.cache
def _docstrings(table: Any) -> Mapping[str, str]:
    """Return name → the docstring below the field, those of the classes that the table extends included."""
    found: dict[str, str] = {}
    owners: list[Any] = [one for one in reversed(table.__mro__) if dataclasses.is_dataclass(one)]
    for owner in owners:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        # an installation without source files: flags then have no meanings, and everything works
        except (OSError, TypeError):
            continue
        for field, text in itertools.pairwise(getattr(tree.body[0], "body", [])):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                found[field.target.id] = _plain(str(ast.literal_eval(text.value)))
    return found


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _several(hint: Any) -> Any:
    """Return the dataclass of a list of tables, or of tables by name; None for all else."""
    return next((one for one in get_args(hint) if dataclasses.is_dataclass(one)), None)


def _type(hint: Any, path: str) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(f'`"{one}"`' for one in arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"{len(arguments)} whole numbers"
    if origin is tuple:
        return f"tables `[[{path}]]`" if dataclasses.is_dataclass(arguments[0]) else "a list of texts"
    if origin is not None:
        return f"tables `[{path}.…]`"
    return TYPES[hint]


def _default(field: dataclasses.Field[Any], *, tables: bool) -> str:
    if tables or field.default is dataclasses.MISSING:
        return ""
    return json.dumps(field.default)  # which is TOML, for what fields without tables can have


def _range(range_: Between | None, *, several: bool) -> str:
    if range_ is None:
        return ""
    low = f"`{range_.low}`" if isinstance(range_.low, str) else _number(range_.low)
    return f"{'each ' * several}{'above ' * range_.above}{low} to {_number(range_.high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"
