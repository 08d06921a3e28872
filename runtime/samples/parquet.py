"""Tables in Apache Parquet, by pyarrow: read as CSV tables are, so that all rules for columns, labels and rows are the same.

Each value becomes the text that CSV would have: numbers with all their digits, missing values as empty fields. Memory is bounded by some
thousand rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from isoform.runtime.errors import InputError
from isoform.runtime.extras import needs
from isoform.runtime.formats import files
from isoform.runtime.samples.limits import data_bytes
from isoform.runtime.samples.tables import PARQUET, Table

__all__ = ["Parquet", "opened_table"]

BATCH = 4096
"""Rows in memory."""


def opened_table(path: Path) -> Table:
    """Open a table: CSV, TSV or Parquet. Raises ``InputError`` as the classes do."""
    return Parquet(path) if path.suffix.lower() == PARQUET else Table(path)


class Parquet(Table):
    """A Parquet file; columns are read at once, the rows on iteration. A row's line is that of the same table in CSV.

    Args:
        path: The file.

    Raises:
        InputError: If it is missing, damaged or too large, has no rows, or a column is neither of numbers nor of text.
        MissingExtraError: If pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.comments, self.separator = 0, ","
        with needs(f"reading {path}", extra="parquet"):
            import pyarrow.parquet
        self._arrow: Any = pyarrow
        self._parquet: Any = pyarrow.parquet
        with self._opened() as file:
            self.header = [name.strip() for name in file.schema_arrow.names]
            for field in file.schema_arrow:
                if self._arrow.types.is_nested(field.type) or self._arrow.types.is_binary(field.type):
                    raise InputError(
                        f"{path} has a column {field.name!r} of {str(field.type)[:40]}, but numbers or text were expected; "
                        "'isoform data unpack' writes images and sounds of Hugging Face's data sets to files"
                    )
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
            while True:
                try:
                    batch = next(batches, None)
                except (self._arrow.ArrowException, OSError) as problem:
                    raise self._damaged(problem) from None
                if batch is None:
                    return
                columns = [["" if value is None else str(value) for value in column.to_pylist()] for column in batch]
                for row in zip(*columns, strict=True):
                    yield line, [*row]
                    line += 1

    def line_of(self, line: int, row: Sequence[str], column: int) -> int:  # noqa: ARG002 - a field has no lines
        """Return the row's line."""
        return line

    def _opened(self) -> Any:
        # looked at first, because pyarrow would wait for ever for a named pipe
        files.open_file(self.path, limit=data_bytes(), error=InputError, what="Parquet file").close()
        try:
            return self._parquet.ParquetFile(self.path)
        except (self._arrow.ArrowException, OSError, ValueError) as problem:
            raise self._damaged(problem) from None

    def _damaged(self, problem: Exception) -> InputError:
        return InputError(f"{self.path} cannot be read as Parquet: {str(problem).splitlines()[0][:200]}")
