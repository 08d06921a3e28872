"""Tables in Apache Parquet, by pyarrow: read as CSV tables are, so that all rules for columns, labels and rows are the same.

Each value becomes the text that CSV would have: numbers with all their digits, missing values as empty fields. Memory is bounded by some
hundred rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from isoform.runtime.errors import InputError, first_line
from isoform.runtime.extras import needs
from isoform.runtime.formats import files
from isoform.runtime.samples.limits import data_bytes
from isoform.runtime.samples.tables import PARQUET, Table

__all__ = ["opened_table"]

BATCH = 256
"""Rows in memory."""
LONGEST = 1 << 17
"""Bytes of a text, as in CSV: a file of a few kilobytes may repeat one of megabytes."""


def opened_table(path: Path) -> Table:
    """Open a table: CSV, TSV or Parquet. Raises ``InputError`` as the classes do."""
    return Parquet(path) if path.suffix.lower() == PARQUET else Table(path)


class Parquet(Table):
    """A Parquet file; columns are read at once, the rows on iteration. A row's line is that of the same table in CSV.

    Args:
        path: The file.

    Raises:
        InputError: If it is missing, damaged or too large, has no rows, or a column is neither of numbers nor of text nor of times.
        MissingExtraError: If pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.comments, self.separator = 0, ","
        with needs(f"reading {path}", extra="parquet"):
            import pyarrow.compute
            import pyarrow.parquet
        self._arrow: Any = pyarrow
        self._texts: list[str] = []
        """Columns of text, which are read as dictionaries, so that a text that is repeated is in memory once."""
        with self._opened() as file:
            self.header = [name.strip() for name in file.schema_arrow.names]
            for field in file.schema_arrow:
                self._check(field)
            rows, size = file.metadata.num_rows, sum(
                file.metadata.row_group(place).total_byte_size for place in range(file.metadata.num_row_groups)
            )  # fmt: skip
        if not rows:
            raise InputError(f"{path} has a header, but no rows; at least one was expected")
        if size > (limit := data_bytes()):
            raise InputError(
                f"{path} has {size:,} bytes, but at most {limit:,} are read; give fewer rows, or set ISOFORM_MAX_DATA_BYTES"
            )
        self._check_header()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield every row with its line in CSV: 2 for the first."""
        line = 2
        with self._opened() as file:
            batches = file.iter_batches(batch_size=BATCH)
            while (rows := self._next(batches)) is not None:
                for row in rows:
                    yield line, row
                    line += 1

    def line_of(self, line: int, row: Sequence[str], column: int) -> int:  # noqa: ARG002 - a field has no lines
        """Return the row's line."""
        return line

    def _next(self, batches: Iterator[Any]) -> list[list[str]] | None:
        """Return the next rows as text; None after the last."""
        compute, types = self._arrow.compute, self._arrow.types
        try:
            batch = next(batches, None)
            if batch is None:
                return None
            columns = []
            for name, column in zip(self.header, batch, strict=True):
                if types.is_dictionary(column.type):
                    longest = compute.max(compute.binary_length(column.dictionary)).as_py() or 0
                    if longest > LONGEST:
                        raise InputError(
                            f"{self.path} has a text of {longest:,} bytes in column {name!r}, but at most {LONGEST:,} are read"
                        )
                columns.append([value or "" for value in column.cast(self._arrow.string()).to_pylist()])
        except (self._arrow.ArrowException, OSError, ValueError, OverflowError) as problem:
            raise self._damaged(problem) from None
        return [[*row] for row in zip(*columns, strict=True)]

    def _check(self, field: Any) -> None:
        """Note a column of text. Raises ``InputError`` if a column has no plain values."""
        types, kind = self._arrow.types, field.type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_string(kind) or types.is_large_string(kind):
            self._texts.append(field.name)
        elif not any(
            is_plain(kind)
            for is_plain in (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_temporal)
        ):
            raise InputError(
                f"{self.path} has a column {field.name!r} of {str(kind)[:40]}, but numbers or text were expected; "
                "'isoform data unpack' writes images and sounds of Hugging Face's data sets to files"
            )

    def _opened(self) -> Any:
        # looked at first, because pyarrow would wait for ever for a named pipe
        files.open_file(self.path, limit=data_bytes(), error=InputError, what="Parquet file").close()
        try:
            return self._arrow.parquet.ParquetFile(self.path, read_dictionary=self._texts)
        except (self._arrow.ArrowException, OSError, ValueError) as problem:
            raise self._damaged(problem) from None

    def _damaged(self, problem: Exception) -> InputError:
        return InputError(f"{self.path} cannot be read as Parquet: {first_line(problem)[:200]}")
