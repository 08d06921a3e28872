"""CSV and TSV files as spreadsheets, pandas and numpy write them: header and rows, each with the line that an editor shows for it.

Columns may be separated by commas, semicolons, tabs or bars, whichever splits the header and the first rows alike.
The text is UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one. Blank lines and a first line ``sep=;`` are
skipped. Lines that begin with ``#`` are skipped and counted, whatever follows; but where a row of numbers comes first, the comment
before it is the header, as ``numpy.savetxt`` writes it. Rows are read one by one, so a file takes no more memory than its longest row.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from isoform.runtime.errors import InputError
from isoform.runtime.formats import files
from isoform.runtime.samples.account import plural
from isoform.runtime.samples.limits import data_bytes
from isoform.runtime.samples.names import normal

__all__ = ["Table", "is_table"]

TAB_ENDING = ".tsv"
ENDINGS = {".csv", TAB_ENDING}

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""First bytes → encoding; those of UTF-32 begin with those of UTF-16 and so come first."""
SEPARATORS = ",;\t|"
PROBED = 50
"""Rows by which the separator is recognised."""
LINE_END = re.compile("\r\n|\r|\n")
SAVETXT = "numpy.savetxt(path, x, delimiter=',', header='x,y', comments='')"


def is_table(path: Path) -> bool:
    """Whether a file's name says that it is a table."""
    return path.suffix.lower() in ENDINGS


class Table:
    """A CSV file: its header is read when it is opened, its rows when they are asked for.

    Args:
        path: The file.

    Raises:
        InputError: If it is missing, too large, no text, has no header, or its columns could be separated in two ways.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.comments = 0
        """Lines that began with ``#``, once ``rows`` is at its end."""
        with _open(path) as file:
            self._encoding = _encoding(file.read(4))
        self.separator = ","
        self.separator = self._separator()
        self._comment, self._header_is_comment = "", False
        """The last comment before the first record, and whether that is the header."""
        first = next(self._records(), None)
        if first is None:
            raise InputError(f"{path} has neither a header nor rows, but a header and at least one row were expected")
        self.header = [name.strip().strip("\ufeff").strip() for name in first[1]]
        """Names of the columns, without spaces around them; empty where a column has none."""
        commented = self._commented_header()
        if commented is not None:
            self.header, self._header_is_comment = commented, True
        self._check_header()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Every row after the header with the number of the line that it begins in, all as long as the header.

        Raises:
            InputError: If a row has another number of fields, there is none, or the file is not CSV; names the line.
        """
        records, count, empty = self._records(), 0, 0
        if not self._header_is_comment:
            next(records)
        for line, row in records:
            if len(row) != len(self.header):
                decimal = (
                    "for decimal commas, put a line sep=; before the header, else " if len(self.header) == 1 else ""
                )
                raise InputError(
                    f"{self.path}, line {line}, has {plural(len(row), 'field')}, but the header has {len(self.header)}; "
                    f"{decimal}give header and rows as many columns; in R use write.csv"
                )
            if not any(map(str.strip, row)):
                empty = empty or line
                continue
            if empty:
                raise InputError(
                    f"{self.path}, line {empty}, is a row of empty fields between others; fill or remove it"
                )
            count += 1
            yield line, row
        if not count:
            raise InputError(f"{self.path} has a header, but no rows; at least one was expected")

    def line_of(self, line: int, row: Sequence[str], column: int) -> int:
        """The line of a field of a row that begins in ``line``, which fields with line breaks before it move down."""
        return line + sum(len(LINE_END.findall(field)) for field in row[:column])

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Records with the line they begin in; without blank lines and comments."""
        with io.TextIOWrapper(_open(self.path), encoding=self._encoding, newline="") as text:
            lines, started = _Lines(text), False
            reader = csv.reader(lines, delimiter=self.separator, strict=True, skipinitialspace=True)
            while True:
                lines.first = 0
                try:
                    row = next(reader)
                except StopIteration:
                    self.comments = lines.comments - self._header_is_comment
                    return
                except UnicodeError:
                    raise InputError(f"{self._not_text()}; save it as UTF-8") from None
                except csv.Error as problem:
                    raise InputError(
                        f"{self.path}, line {lines.first}, is not a CSV file in UTF-8: {problem}"
                    ) from None
                except OSError as problem:
                    raise InputError(f"CSV file {self.path} cannot be read: {problem.strerror or problem}") from None
                skipped = not row or (len(row) == 1 and not row[0].strip())
                if not started and not skipped:
                    skipped = row[0].startswith("#") or _separator_line(self.separator.join(row)) is not None
                    started = not skipped
                    self._comment = lines.comment if started else ""
                if not skipped:
                    yield lines.first, row

    def _separator(self) -> str:
        """The character between columns."""
        with io.TextIOWrapper(_open(self.path), encoding=self._encoding, newline="", errors="replace") as text:
            lines = list(itertools.islice((line[: 1 << 16] for line in text), 4 * PROBED))
        lines = [line for line in lines if line.strip() and not _is_comment(line)]
        if lines and (named := _separator_line(lines[0])):
            return named
        widths: dict[str, list[int]] = {}
        for separator in SEPARATORS:
            try:
                rows = list(itertools.islice(csv.reader(lines, delimiter=separator, skipinitialspace=True), PROBED))
            except csv.Error:
                continue
            widths[separator] = [len(row) for row in rows]
        if all(found[:1] == [1] for found in widths.values()) and _is_spaced(lines[:PROBED]):
            raise InputError(
                f"{self.path} has columns separated by spaces; separate them by commas or tabs, as {SAVETXT} does, and in R write.csv(x, path)"
            )
        fitting = [separator for separator, found in widths.items() if found and found[0] > 1 and len(set(found)) == 1]
        if self.path.suffix.lower() == TAB_ENDING and ("\t" in fitting or not fitting):
            return "\t"
        if len(fitting) > 1:
            raise InputError(
                f"the columns of {self.path} could be separated by {' or '.join(map(repr, fitting))}; use one of them only"
            )
        return fitting[0] if fitting else max(widths, key=lambda one: widths[one][:1], default=",")

    def _commented_header(self) -> list[str] | None:
        """The names in the comment before a first row of numbers, one per number; None where there is no such comment."""
        names = [
            name.strip()
            for name in next(csv.reader([self._comment], delimiter=self.separator, skipinitialspace=True), [])
        ]
        numbers = all(map(_is_number, self.header))
        named = len(names) == len(self.header) and all(names) and not any(map(_is_number, names))
        return names if numbers and named else None

    def _check_header(self) -> None:
        """A first line of numbers is a row, not the names of columns; a name stands for one column."""
        numbers = [name for name in self.header if _is_number(name)]
        names = [name for name in self.header if name]
        # pandas writes whole numbers for columns without names, after an empty field for the row's number or beside others
        counted = [str(i) for i in range(len(numbers))] == numbers and ("" in self.header or len(names) > len(numbers))
        if numbers and not counted:
            raise InputError(
                f"{self.path} has no header: its first line holds {', '.join(self.header)[:60]!r}; add a line with the names of the columns, as {SAVETXT} does"
            )
        met: dict[str, str] = {}
        for name in names:
            if (other := met.get(normal(name))) is not None:
                shown = (
                    repr(name) if name == other else f"{other!a} and {name!a}, the same but for how accents are stored"
                )
                raise InputError(f"{self.path} has two columns named {shown}; give each a name of its own")
            met[normal(name)] = name

    def _not_text(self) -> str:
        """Where the first bytes are that are no text."""
        if self._encoding.startswith("utf-8"):
            with _open(self.path) as file:
                for number, line in enumerate(file, start=1):
                    try:
                        line.decode()
                    except UnicodeDecodeError as problem:
                        return f"{self.path}, line {number}, is not UTF-8 text (byte {line[problem.start]:#x})"
        return f"{self.path} is not {self._encoding.upper()} text"


class _Lines:
    """The lines of a text for ``csv.reader``, without comments; counts them, because the reader does not see all.

    A line within quotes is none, whatever it begins with: only at the start of a record is there a choice.
    """

    def __init__(self, text: Iterator[str]) -> None:
        self._text = enumerate(text, start=1)
        self.first = 0
        """Number of the line in which the current record begins; 0 to begin another."""
        self.comments = 0
        self.comment = ""
        """The last of them, without its mark and line end."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        for number, line in self._text:
            if self.first or not _is_comment(line):
                self.first = self.first or number
                return line
            self.comments += 1
            self.comment = line[: 1 << 16].strip().removeprefix("#").strip()
        raise StopIteration


def _is_comment(line: str) -> bool:
    return line.lstrip(" ").startswith("#")


def _open(path: Path) -> BinaryIO:
    return files.open_file(path, limit=data_bytes(), error=InputError, what="CSV file")


def _encoding(head: bytes) -> str:
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    if len(head) == 4 and head.count(0) == 2:  # no text begins with NUL: two in four are UTF-16 without its mark
        return "utf-16-be" if head[0] == 0 else "utf-16-le"
    return "utf-8"


def _separator_line(line: str) -> str | None:
    """The character that a spreadsheet's first line ``sep=;`` names."""
    found = re.fullmatch(r'"?sep=(.)"?', line.strip("\r\n").removeprefix("\ufeff"))
    return found[1] if found else None


def _is_spaced(lines: Sequence[str]) -> bool:
    """Whether spaces separate columns, as in ``numpy.savetxt`` and R's ``write.table``, whose header has no name for the row numbers."""
    try:
        first, *others = csv.reader((" ".join(line.split()) for line in lines), delimiter=" ")
    except (csv.Error, ValueError):
        return False
    fitting = all(len(row) - len(first) in (0, 1) for row in others) and max(map(len, (first, *others))) > 1
    return fitting and (
        (len(first) > 1 and len(others) > 0) or all(map(_is_number, itertools.chain(*others or [first])))
    )


def _is_number(name: str) -> bool:
    try:
        float(name.replace(",", "."))
    except ValueError:
        return False
    return True
