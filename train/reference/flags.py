"""The flags of ``isoform train`` that override a recipe's fields, in groups by table, with meaning, range and default."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence

from isoform.train.kind import TRAINERS, trainer_named
from isoform.train.recipe import override_fields
from isoform.train.reference.described import Described, Section, sections

__all__ = ["PREFIX", "WIDTH", "add_field_flags", "wrapped"]

PREFIX = "field:"
"""Of the names under which the parsed flags are found: ``field:network.layers``."""
WIDTH = 78
"""Columns of help texts."""
INDENT = 6


def wrapped(text: str, *, indent: int = INDENT) -> str:
    """Break a text into lines that fit after an indentation, for ``RawTextHelpFormatter``; a percent sign stays one."""
    width = WIDTH - indent
    lines = [textwrap.fill(line, width, break_on_hyphens=False) for line in text.split("\n")]
    return "\n".join(lines).replace("%", "%%")


def add_field_flags(parser: argparse.ArgumentParser) -> None:
    """Declare a flag for every field of every kind; the values are texts."""
    parser.formatter_class = lambda prog: argparse.RawTextHelpFormatter(prog, max_help_position=INDENT, width=WIDTH)
    tables: dict[str, dict[str, Section]] = {}
    for kind in TRAINERS:
        for section in sections(trainer_named(kind).recipe):
            tables.setdefault(section.name, {})[kind] = section
    flags = set(override_fields())
    for name, kinds in tables.items():
        found: dict[str, dict[str, Described]] = {}
        for kind, section in kinds.items():
            for field in section.fields:
                found.setdefault(f"{name}.{field.name}".lstrip("."), {})[kind] = field
        found = {flag: of for flag, of in found.items() if flag in flags}
        if found:
            title, about = _title(name, kinds)
            group = parser.add_argument_group(title, wrapped(about, indent=2))
            for flag, of in found.items():
                group.add_argument(f"--{flag}", dest=PREFIX + flag, metavar="VALUE", help=wrapped(_help(of, [*kinds])))


def _title(name: str, kinds: Mapping[str, Section]) -> tuple[str, str]:
    """Return a group's title and description."""
    if not name:
        return "run", "Flags from here on override the recipe. VALUE is as in TOML; quotes may be left out."
    if len(kinds) == len(TRAINERS) and len({section.table for section in kinds.values()}) == 1:
        return name, next(iter(kinds.values())).about
    title = f"{name}, of recipes of kind {' or '.join(kinds)}"
    return title, "\n".join(
        _labelled({kind: section.about.replace("`", "") for kind, section in kinds.items()}, [*kinds])
    )


def _help(of: Mapping[str, Described], kinds: Sequence[str]) -> str:
    told = {}
    for kind, field in of.items():
        facts = ", ".join(filter(None, [field.type, field.range]))
        default = (
            f"default {field.default}" if field.default else "see docs/recipes.md" if "[" in field.type else "required"
        )
        told[kind] = f"{field.meaning} ({facts}; {default})".strip().replace("`", "")
    return "\n".join(_labelled(told, kinds))


def _labelled(told: Mapping[str, str], kinds: Sequence[str]) -> list[str]:
    """Return the texts, each once, after the kinds that it is of, unless it is of all that there are."""
    by_text: dict[str, list[str]] = {}
    for kind, text in told.items():
        by_text.setdefault(text, []).append(kind)
    return [text if len(of) == len(kinds) else f"{', '.join(of)}: {text}" for text, of in by_text.items()]
