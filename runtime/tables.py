"""Text for people: aligned tables, and fields with a name, in lines of at most 80 columns. What is not printable is escaped."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from isoform.runtime.errors import printable
from isoform.runtime.samples.account import plural

__all__ = ["WIDTH", "aligned", "cut", "divided", "named", "size", "tail"]

WIDTH = 80
"""Columns of a terminal."""
NAME = 12
"""Columns of a field's name."""
NARROWEST = 8
"""Columns that a column of text keeps if there is not enough room for all of it."""


def cut(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters, the last ``…`` if some are left out."""
    return text if len(text) <= width else text[: width - 1] + "…"


def tail(path: str, width: int = 40) -> str:
    """Return a path of at most ``width`` characters; of a longer one the end, after ``…``."""
    return path if len(path) <= width else "…" + path[1 - width :]


def size(count: int) -> str:
    """Return a number of bytes as text."""
    return plural(count, "byte")


def named(name: str, text: str, *, lines: int = 3) -> list[str]:
    """Return a field as lines: its name, then its text, wrapped; of more than ``lines`` the rest is left out."""
    wrapped = textwrap.wrap(printable(text), WIDTH - NAME, break_on_hyphens=False, max_lines=lines, placeholder=" …")
    return [f"{name if place == 0 else '':{NAME}}{line}" for place, line in enumerate(wrapped or ["-"])]


def aligned(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Iterable[int] = (0,), width: int = WIDTH
) -> list[str]:
    """Align columns: those of text, ``left``, to the left, those of numbers to the right. Where the table is too wide, text is cut.

    Args:
        columns: Names of the columns.
        rows: One text per column.
        left: Indices of the columns of text.
        width: Largest length of a line.

    Returns:
        The lines, first the names.
    """
    places = {*left}
    cells = [[*columns], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    # the widest text gives way first
    while sum(widths) + 2 * (len(widths) - 1) > width:
        widest = max(places, key=lambda place: widths[place])
        if widths[widest] <= NARROWEST:
            break
        widths[widest] -= 1
    return [
        "  ".join(
            cut(cell, room).ljust(room) if place in places else cell.rjust(room)
            for place, (cell, room) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def divided(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Iterable[int] = (0,)
) -> list[str]:
    """Return a table with a title, and a blank line after it; one that is too wide goes on below, with its first column again.

    Args:
        title: What the table is of; wrapped.
        columns: Names of the columns.
        rows: One text per column.
        left: Indices of the columns of text, which are cut where they alone are too wide.
    """
    lines, places, first = textwrap.wrap(printable(title), WIDTH), {*left}, 1
    while first < len(columns) or first == 1:
        end = first + 1
        while end < len(columns) and _width(columns, rows, [0, *range(first, end + 1)], places) <= WIDTH:
            end += 1
        chosen = [0, *range(first, min(end, len(columns)))]
        lines += [
            *aligned(
                [columns[place] for place in chosen], [[row[place] for place in chosen] for row in rows],
                left=[index for index, place in enumerate(chosen) if place in places],
            ), "",
        ]  # fmt: skip
        first = end
    return lines


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]], chosen: Sequence[int], left: set[int]) -> int:
    """Return the length of a line that has some columns, those of text as narrow as they may be."""
    widths = [max(len(row[place]) for row in (columns, *rows)) for place in chosen]
    return sum(
        min(width, 3 * NARROWEST) if place in left else width for place, width in zip(chosen, widths, strict=True)
    ) + 2 * (len(chosen) - 1)
