"""Reader of CSV and TSV files from spreadsheets, pandas, R and numpy: header and rows, with their line numbers.

Columns are separated by commas, semicolons, tabs or vertical bars, whichever splits the header and the first rows into equally many.
The text is UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one. Blank lines and a first line ``sep=;`` are
skipped. Lines that start with ``#`` are skipped and counted; but if the first row has numbers only, the comment before it is the
header, as ``numpy.savetxt`` writes it. Rows are read one by one, so memory is bounded by the longest row.
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

__all__ = ["PARQUET", "Table", "is_number", "is_table"]

TAB_ENDING, PARQUET = ".tsv", ".parquet"
ENDINGS = {".csv", TAB_ENDING, PARQUET}

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""Byte order mark → encoding. UTF-32 comes first, because its marks start with those of UTF-16."""
SEPARATORS = ",;\t|"
PROBED = 50
"""Number of rows used to detect the separator."""
LINE_END = re.compile("\r\n|\r|\n")
SAVETXT = "numpy.savetxt(path, x, delimiter=',', header='x,y', comments='')"


def is_table(path: Path) -> bool:
    """Return whether a file has a table's extension."""
    return path.suffix.lower() in ENDINGS


class Table:
    """A CSV file; the header is read at once, the rows on iteration.

    Args:
        path: The file.

    Raises:
        InputError: If it is missing, too large, not text, has no header, or the separator is ambiguous.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.comments = 0
        """Number of lines that start with ``#``; known after iterating ``rows`` to the end."""
        with _open(path) as file:
            self._encoding = _encoding(file.read(4))
        self.separator = self._separator()
        self._comment, self._header_is_comment = "", False
        """The last comment before the first record, and whether it is the header."""
        first = next(self._records(), None)
        if first is None:
            raise InputError(f"{path} has neither a header nor rows, but a header and at least one row were expected")
        # the decoder removes one byte order mark; some files start with two
        self.header = [name.strip().strip("\ufeff").strip() for name in first[1]]
        """Column names, stripped; empty for columns without a name."""
        commented = self._commented_header()
        if commented is not None:
            self.header, self._header_is_comment = commented, True
        self._check_header()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield every row after the header with the number of its first line; all have as many fields as the header.

        Raises:
            InputError: If a row has a different number of fields, there are no rows, or the file is not CSV; the message has the line.
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
                    f"{decimal}give header and rows the same number of columns; in R use write.csv"
                )
            if not any(map(str.strip, row)):  # spreadsheets add rows of separators at the end, which are harmless
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
        """Return the line of a field in a row that starts in ``line``, allowing for quoted line breaks in the fields before it."""
        return line + sum(len(LINE_END.findall(field)) for field in row[:column])

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield records with the number of their first line, without blank lines and comments."""
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
                    # _Lines does not recognise a comment in quotes
                    skipped = row[0].startswith("#") or _separator_line(self.separator.join(row)) is not None
                    started = not skipped
                    self._comment = lines.comment if started else ""
                if not skipped:
                    yield lines.first, row

    def _separator(self) -> str:
        """Detect the character that separates columns."""
        # undecodable bytes are reported with their line when the records are read
        with io.TextIOWrapper(_open(self.path), encoding=self._encoding, newline="", errors="replace") as text:
            # more lines than rows, because quoted fields may hold line breaks; cut, to bound the memory
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
                f"{self.path} has columns separated by spaces; use commas or tabs, as {SAVETXT} does, and in R write.csv(x, path)"
            )
        fitting = [separator for separator, found in widths.items() if found and found[0] > 1 and len(set(found)) == 1]
        if self.path.suffix.lower() == TAB_ENDING and ("\t" in fitting or not fitting):
            return "\t"
        if len(fitting) > 1:
            raise InputError(
                f"the columns of {self.path} could be separated by {' or '.join(map(repr, fitting))}; use only one of them"
            )
        # none fits: the one that splits the header most, so that reading reports the first row that differs
        return fitting[0] if fitting else max(widths, key=lambda one: widths[one][:1], default=",")

    def _commented_header(self) -> list[str] | None:
        """Return the column names in the comment before a first row of numbers; None if there is no such comment."""
        names = [
            name.strip()
            for name in next(csv.reader([self._comment], delimiter=self.separator, skipinitialspace=True), [])
        ]
        numbers = all(map(is_number, self.header))
        named = len(names) == len(self.header) and all(names) and not any(map(is_number, names))
        return names if numbers and named else None

    def _check_header(self) -> None:
        """Raise ``InputError`` if the first line has numbers instead of column names, or two columns have the same name."""
        numbers = [name for name in self.header if is_number(name)]
        names = [name for name in self.header if name]
        # pandas names unnamed columns 0, 1, …, after an empty name for the index or next to named columns
        counted = [str(i) for i in range(len(numbers))] == numbers and ("" in self.header or len(names) > len(numbers))
        if numbers and not counted:
            raise InputError(
                f"{self.path} has no header: its first line holds {', '.join(self.header)[:60]!r}; add a line with the names of the columns, as {SAVETXT} does"
            )
        met: dict[str, str] = {}
        for name in names:
            if (other := met.get(normal(name))) is not None:
                shown = (
                    repr(name)
                    if name == other
                    else f"{other!a} and {name!a}, which differ only in the encoding of accents"
                )
                raise InputError(f"{self.path} has two columns named {shown}; give them different names")
            met[normal(name)] = name

    def _not_text(self) -> str:
        """Describe where the first undecodable bytes are."""
        if self._encoding.startswith("utf-8"):
            with _open(self.path) as file:
                for number, line in enumerate(file, start=1):
                    try:
                        line.decode()
                    except UnicodeDecodeError as problem:
                        return f"{self.path}, line {number}, is not UTF-8 text (byte {line[problem.start]:#x})"
        return f"{self.path} is not {self._encoding.upper()} text"


class _Lines:
    """Iterator over lines for ``csv.reader`` that skips comments and keeps line numbers.

    Comments are recognised only at the start of a record: within a quoted field, a line that starts with ``#`` is data.
    """

    def __init__(self, text: Iterator[str]) -> None:
        self._text = enumerate(text, start=1)
        self.first = 0
        """Number of the current record's first line; set to 0 to start another record."""
        self.comments = 0
        self.comment = ""
        """Text of the last comment, without ``#`` and line end."""

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
    # text has no NUL characters: two NUL bytes in four are UTF-16 without a mark
    if len(head) == 4 and head.count(0) == 2:
        return "utf-16-be" if head[0] == 0 else "utf-16-le"
    return "utf-8"


def _separator_line(line: str) -> str | None:
    """Return the separator in a spreadsheet's first line ``sep=;``; None for any other line."""
    found = re.fullmatch(r'"?sep=(.)"?', line.strip("\r\n").removeprefix("\ufeff"))
    return found[1] if found else None


def _is_spaced(lines: Sequence[str]) -> bool:
    """Return whether columns are separated by spaces, as by ``numpy.savetxt`` and R's ``write.table``."""
    # the header of write.table has one name less than the rows have fields: none for the row numbers
    try:
        first, *others = csv.reader((" ".join(line.split()) for line in lines), delimiter=" ")
    except (csv.Error, ValueError):
        return False
    fitting = all(len(row) - len(first) in (0, 1) for row in others) and max(map(len, (first, *others))) > 1
    return fitting and (
        (len(first) > 1 and len(others) > 0) or all(map(is_number, itertools.chain(*others or [first])))
    )


def is_number(text: str) -> bool:
    """Return whether a field holds a number, perhaps with a decimal comma."""
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True
