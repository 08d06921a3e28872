"""Sensor recordings: tables with one row per time step and one column per channel, cut into windows of the network's width.

The first file defines the order of the channels; columns of other files are matched by name. Windows follow each other, unless there is a
stride; remaining rows at the end of a recording are counted. Columns with times, row numbers, labels or groups are not channels.

A recording is a file, or in it a run of rows with equal labels and groups. It is a group of its own, unless a column ``group`` names one.
"""

from __future__ import annotations

import array
import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Reading
from isoform.runtime.samples.account import Account, plural
from isoform.runtime.samples.collected import Piece
from isoform.runtime.samples.names import Names, normal
from isoform.runtime.samples.recordings.windows import windows
from isoform.runtime.samples.tables import Table

__all__ = ["ROW_NUMBERS", "Recordings", "channels_of", "column_of"]

# pandas writes its index as a column without a name, and reads that back as "Unnamed: 0"
ROW_NUMBERS = re.compile(r"|unnamed: \d+|index", re.IGNORECASE)
"""Names of columns with row numbers."""
NO_CHANNEL = re.compile(
    ROW_NUMBERS.pattern + r"|(milli|micro|nano)?seconds?|(seconds?[ _])?elapsed([ _](time|seconds?|m?s))?"
    r"|(unix|epoch|utc|local)?[ _]?(date|time|date[ _]?time|time[ _]?stamp)[ _]?[numµ]?(s|sec|seconds)?([ _]?[\[(].*[\])])?",
    re.IGNORECASE,
)
"""Names of columns with row numbers or times."""
# as a channel, such a column would give the answer away
LABEL_LIKE = {"labels", "class", "classes"}
"""Names, in lower case, of columns that are probably labels."""
# spaces as float() takes them; \s has others, such as separators of records
DECIMAL_COMMA = re.compile(r"[ \t\n\r\f\v]*[+-]?\d*,\d+(e[+-]?\d+)?[ \t\n\r\f\v]*", re.IGNORECASE)
THOUSANDS = re.compile(r"[ \t\n\r\f\v]*[+-]?[1-9]\d{0,2},\d{3}[ \t\n\r\f\v]*")
LARGEST = float(np.finfo(np.float32).max)


class Recordings:
    """Reads the recordings of one data set.

    Args:
        shape: Channels, height (1) and width of a window.
        account: Counts what is read and skipped.
        skip_short: Skip classes whose recordings are all shorter than a window.
        reading: Names of the channels, in order; other columns are left out then. Without any, all columns of the first file. And the
            stride of windows.
    """

    def __init__(
        self, shape: tuple[int, int, int], account: Account, *, reading: Reading, skip_short: bool = False
    ) -> None:
        self._shape, self._account, self._skip_short = shape, account, skip_short
        self._names, self._groups = Names(written=True), Names(written=True, what="group")
        self._first: tuple[Path, list[str]] | None = None
        self._named = None if reading.columns is None else [*reading.columns]
        self._stride = reading.stride
        self._without: dict[str, dict[bool, Path]] = {"label": {}, "group": {}}
        """Column → whether it is missing → the first such file."""
        self._windows: set[str] = set()
        self._short: dict[str, list[tuple[int, str]]] = {}

    def read(self, table: Table, label: str | None = None) -> Iterator[Piece]:
        """Yield the windows of every recording in a table, shape (n, channels, 1, width), with their label and group.

        Args:
            table: The table. If it has columns ``label`` or ``group``, each run of equal values is a recording.
            label: Label of the whole file; None if only the column ``label``, if any, gives it.

        Raises:
            InputError: If the columns do not match the network or the first file, a field is not a finite number, a row's label
                differs from ``label`` or is missing, or only some of the tables have labels or groups; the message has the line.
        """
        place, grouped = column_of(table, "label"), column_of(table, "group")
        if label is None:
            self._same_kind(table.path, "label", place)
        self._same_kind(table.path, "group", grouped)
        numbers = _Numbers(table, self._columns(table, {place, grouped} - {None}))
        # 4 bytes per number, where a list of Python's floats takes 32
        values, first, begin, windows = array.array("f"), 0, 0, self._account.taken["window"]
        current: tuple[str, str] | None = (label or "", "") if place is None and grouped is None else None
        for number, (line, row) in enumerate(table.rows()):
            if place is not None or grouped is not None:
                found = self._label(table, line, row, place, label), self._group(table, line, row, grouped)
                if found != current:
                    if current is not None:
                        yield self._cut(values, *current, f"{table.path} from line {first}", table.path, begin)
                    values, first, begin, current = array.array("f"), line, number, found
            numbers.read(line, row, values)
        numbers.check()
        assert current is not None  # a table has a row at least
        where = str(table.path) + (f" from line {first}" if first else "")
        yield self._cut(values, *current, where, table.path, begin)
        self._account.leave("commented line", table.comments)
        if self._account.taken["window"] > windows:
            self._account.files += 1

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the channels; None before a file was read, unless they were given."""
        names = self._named or (None if self._first is None else self._first[1])
        return None if names is None else tuple(names)

    def close(self) -> None:
        """Finish reading: check that every class has at least one window.

        Raises:
            InputError: If all recordings of a class are shorter than a window; the message has the class, the lengths, and the remedy.
        """
        for label, short in self._short.items():
            if label in self._windows or not label:
                continue
            if not self._skip_short:
                lengths = ", ".join(f"{rows} in {place}" for rows, place in short[:3]) + (", ..." if short[3:] else "")
                raise InputError(
                    f"class {label!r} has no recording of at least {self._shape[2]} rows (a window), but {lengths}; record longer, or skip it with --skip-short"
                )
            self._account.leave(f"class without a window ({label})")

    def _same_kind(self, path: Path, name: str, place: int | None) -> None:
        """Raise ``InputError`` if some tables have a column of that name and others do not."""
        without = self._without[name]
        without.setdefault(place is None, path)
        if len(without) > 1:
            raise InputError(
                f"{without[True]} has no column named {name}, but {without[False]} has; add it to all files or to none"
            )

    def _label(self, table: Table, line: int, row: Sequence[str], place: int | None, label: str | None) -> str:
        """Return a row's label; that of the file if the table has none."""
        if place is None:
            return label or ""
        where = f"{table.path}, line {table.line_of(line, row, place)},"
        found = self._names.add(row[place], where)
        if label is not None and found != label:
            raise InputError(
                f"{where} has the label {found!r}, but is in the folder of class {label!r}; remove the column label, or give the file alone"
            )
        return found

    def _group(self, table: Table, line: int, row: Sequence[str], place: int | None) -> str:
        """Return a row's group; an empty string if the table has none."""
        if place is None:
            return ""
        found = self._groups.add(row[place], f"{table.path}, line {table.line_of(line, row, place)},")
        self._account.groups.add(found)
        return found

    def _cut(self, values: array.array[float], label: str, group: str, where: str, path: Path, begin: int) -> Piece:
        channels, _, width = self._shape
        # a view, so the caller starts a new array for the next recording: this one cannot grow any more
        rows = np.frombuffer(values, dtype=np.float32).reshape(-1, channels)
        found, rest = windows(rows, width, self._stride)
        if len(found):
            self._windows.add(label)
            self._account.take("window", len(found))
            self._account.take("recording")
            self._account.leave("row at the end of a recording", rest)
        else:
            self._short.setdefault(label, []).append((len(rows), where))
            self._account.leave("recording shorter than a window")
        step = self._stride or width
        return Piece(found[:, :, None], label, group or where, path, range(begin, begin + len(found) * step, step))

    def _columns(self, table: Table, others: set[int | None]) -> list[int]:
        """Return the column indices of the channels, in the order of the first file; ``others`` are those of labels and groups."""
        channels, height, _ = self._shape
        if height != 1:
            raise InputError(
                f"{table.path} has no column named file, but this network's samples are images of {height} rows; give image files"
            )
        if self._named is not None:
            return self._those_named(table, others)
        if other := next((name for name in table.header if name.casefold() in LABEL_LIKE), None):
            raise InputError(
                f"{table.path} has a column {other!r}, which is not a channel; name it label, or remove or rename it"
            )
        names = channels_of(table)
        left = len(table.header) - len(names) - len(others)
        if len(names) != channels:
            also = f" (columns with times or row numbers: {left} left out)" if left else ""
            if column_of(table, "group") is not None:
                also += " (a column group is no channel; rename it if it is one)"
            found, wanted = plural(len(names), "column"), plural(channels, "channel")
            raise InputError(
                f"{table.path} has {found} of numbers, but the network has {wanted}{also}: {', '.join(table.header)[:99]}"
            )
        self._account.leave("column of times or row numbers", left)
        if self._first is None:
            self._first = table.path, list(names)
        path, order = self._first
        if set(order) != set(names):
            raise InputError(
                f"{table.path} has the columns {', '.join(names)}, but {path} has {', '.join(order)}; use the same names for the same channels"
            )
        if order != list(names):
            self._account.note("columns put in the order of the first file")
        return [names[name] for name in order]

    def _those_named(self, table: Table, others: set[int | None]) -> list[int]:
        """Return the indices of the columns that were asked for."""
        assert self._named is not None
        places = {normal(name): i for i, name in enumerate(table.header)}
        missing = [name for name in self._named if normal(name) not in places]
        if missing:
            raise InputError(
                f"{table.path} has no column {missing[0]!r}, which the network was trained with; it has {', '.join(table.header)[:150]}"
            )
        found = [places[normal(name)] for name in self._named]
        if len(found) != self._shape[0]:
            raise InputError(
                f"{plural(len(found), 'column')} are named, but the network has {plural(self._shape[0], 'channel')}"
            )
        self._account.leave("other column", len(table.header) - len({*found} | (others - {None})))
        if found != sorted(found):
            self._account.note("columns put in the order of training")
        return found


def channels_of(table: Table) -> dict[str, int]:
    """Return the name → index of the columns that are channels unless a recipe says which: all but label, group, times and row numbers."""
    others = {column_of(table, "label"), column_of(table, "group")}
    return {
        normal(name): i for i, name in enumerate(table.header) if i not in others and not NO_CHANNEL.fullmatch(name)
    }


def column_of(table: Table, name: str) -> int | None:
    """Return the index of the column of that name, ignoring case; None if there is none. Raises ``InputError`` if there are several."""
    found = [i for i, column in enumerate(table.header) if column.casefold() == name]
    if len(found) > 1:
        several = " and ".join(table.header[i] for i in found)
        raise InputError(f"{table.path} has columns {several}, but one named {name} was expected; rename the others")
    return found[0] if found else None


class _Numbers:
    """Parser of a table's numbers, with decimal points, or with decimal commas if commas do not separate columns."""

    def __init__(self, table: Table, columns: Sequence[int]) -> None:
        self._table, self._columns = table, columns
        self._point: str | None = None
        self._comma: str | None = None
        self._decimal = False

    def read(self, line: int, row: Sequence[str], into: array.array[float]) -> None:
        """Append the channels of one row. Raises ``InputError`` if a field is not a finite number."""
        cells = [row[place] for place in self._columns]
        text = "".join(cells)
        # the fast path converts all fields at once; float() also accepts "1_000", which is no number in a CSV file
        try:
            values = list(map(float, cells))
        except ValueError:
            values = [math.nan]
        # false for NaN too; array("f") would turn a value beyond float32 into inf without an error
        plain = "_" not in text and all(-LARGEST <= value <= LARGEST for value in values)
        # the first number with a point takes the slow path as well, which notes its place for ``check``
        if not plain or ("." in text and self._point is None):
            values = [self._number(line, row, place) for place in self._columns]
        into.extend(values)

    def _number(self, line: int, row: Sequence[str], place: int) -> float:
        """Parse one field that may have a decimal comma, and report it if it is not a number."""
        cell, value = row[place], math.nan
        with contextlib.suppress(ValueError):
            value = float(cell)
            if "." in cell:
                self._point = self._point or self._where(line, row, place)
        if self._table.separator != "," and DECIMAL_COMMA.fullmatch(cell):
            value = float(cell.replace(",", "."))
            self._comma = self._comma or self._where(line, row, place)
            self._decimal = self._decimal or not THOUSANDS.fullmatch(cell)
        if not -LARGEST <= value <= LARGEST or "_" in cell:
            remedy = "fill the gap or cut the recording there"
            if DECIMAL_COMMA.fullmatch(cell):
                remedy = "write decimal points, or separate the columns by semicolons"
                if len(self._table.header) == 1:
                    remedy = "write decimal points, or put a line sep=; before the header"
            raise InputError(f"{self._where(line, row, place)}, but a finite number was expected; {remedy}")
        return value

    def check(self) -> None:
        """Raise ``InputError`` if the numbers are ambiguous: commas and points, or commas that could all be thousands separators."""
        if self._comma is not None and self._point is not None:
            raise InputError(f"{self._comma} and {self._point}; use a decimal point, or a decimal comma, throughout")
        if self._comma is not None and not self._decimal:
            raise InputError(
                f"{self._comma}, which could be a decimal comma or a thousands separator; use decimal points"
            )

    def _where(self, line: int, row: Sequence[str], place: int) -> str:
        line = self._table.line_of(line, row, place)
        return f"{self._table.path}, line {line}, column {self._table.header[place]!r}, holds {row[place][:40]!r}"
