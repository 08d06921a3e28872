"""Rows per second of a recording, by its column of times; and lengths such as ``2.5 s`` in rows."""

from __future__ import annotations

import datetime
import itertools
import re

import numpy as np

from isoform.runtime.errors import UsageError
from isoform.runtime.samples.recordings.recordings import ROW_NUMBERS, channels_of, column_of
from isoform.runtime.samples.tables import Table

__all__ = ["rows_of", "rows_per_second"]

PROBED = 500
"""Rows that are looked at."""
UNITS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e3, "us": 1e6, "µs": 1e6, "ns": 1e9}
UNIT = re.compile(rf"(?:^|[\s_\[(])({'|'.join(UNITS)})(?:[\s_\])]|$)", re.IGNORECASE)
SINCE_1970 = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3), (1e8, 1.0))
"""Least time since 1970 in a unit → units per second."""


def rows_per_second(table: Table) -> float | None:
    """Return the rate of a recording; None if it has no column of times, or the unit of that column is not known.

    The unit is that in the column's name, such as ``Time (ms)``; or that in which the times are since 1970; dates need none. Times that are not
    whole numbers are seconds.
    """
    others = {*channels_of(table).values(), column_of(table, "label"), column_of(table, "group")}
    places = [i for i, name in enumerate(table.header) if i not in others and not ROW_NUMBERS.fullmatch(name)]
    if not places:
        return None
    cells = [row[places[0]].strip() for _, row in itertools.islice(table.rows(), PROBED)]
    try:
        times = np.array([float(cell.replace(",", ".")) for cell in cells])
    except ValueError:
        try:
            times = np.array([datetime.datetime.fromisoformat(cell).timestamp() for cell in cells])
        except ValueError:
            return None
        return _rate(times, 1.0)
    if named := UNIT.search(table.header[places[0]]):
        return _rate(times, UNITS[named[1].casefold()])
    unit = next((unit for least, unit in SINCE_1970 if times[0] >= least), None)
    if unit is None and not np.array_equal(times, np.round(times)):
        unit = 1.0
    return None if unit is None else _rate(times, unit)


def _rate(times: np.ndarray, unit: float) -> float | None:
    steps = np.diff(times)
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    return unit / step if step and np.isfinite(step) else None


def rows_of(text: str, *, flag: str, rate: float | None, what: str = "rows") -> int:
    """Return a length in rows.

    Args:
        text: A whole number of rows, ``128``, or seconds, ``2.5 s``.
        flag: Name of the flag for messages.
        rate: Rows per second; None if unknown.
        what: Name of the rows for messages.

    Raises:
        UsageError: If it is neither, is no row, or is in seconds and the rate is not known.
    """
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?) ?s", text.strip())
    if not found:
        raise UsageError(
            f"{flag} is {text!r}, but a number of {what} such as 128, or of seconds such as '2.5 s', was expected"
        )
    if found[1]:
        rows = int(found[1])
    elif rate is None:
        raise UsageError(
            f"{flag} is {text!r}, but the recordings have no column of times whose unit is known; give a number of {what}"
        )
    else:
        rows = round(float(found[2]) * rate)
    if not 1 <= rows <= 65536:
        raise UsageError(f"{flag} is {rows} {what}, but 1 to 65536 was expected")
    return rows
