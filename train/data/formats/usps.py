"""Read USPS, 16×16 scans of zip-code digits, in its three published forms.

usps.h5                    groups train and test, each data (n, 256) in [0, 1] and target (n,)
zip.train.gz, zip.test.gz  text: a label and 256 values in [-1, 1] per line
usps.bz2, usps.t.bz2       LIBSVM text: label 1 to 10 and index:value pairs, values in [-1, 1]; missing ones are 0
"""

from __future__ import annotations

import array
import bz2
import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import DataError, InputError
from isoform.runtime.extras import needs
from isoform.runtime.samples.account import Account, plural
from isoform.runtime.samples.listing import Listing
from isoform.train.data.samples import Dataset, Split

__all__ = ["read_usps_folder"]

FORMS = (("usps.h5", "usps.h5"), ("zip.train.gz", "zip.test.gz"), ("usps.bz2", "usps.t.bz2"))
"""Names of the training and the test file, in order of preference."""
SIZE_LIMIT = 64 << 20
"""Largest unpacked text of one half, in bytes; the published ones have at most 20 MB."""
LINE_LIMIT = 1 << 14
"""Longest line of the text, in bytes; the published ones have at most 4 kB."""
ROW_LIMIT = 1 << 16
"""Maximum number of rows of one half; the published one has 7,291."""
VALUES = 256
PLACES = {b"%d" % place: place for place in range(1, VALUES + 1)}
"""Index in LIBSVM text → position in a row, after the label."""


def read_usps_folder(folder: Path, *, account: Account | None = None) -> Dataset:
    """Read the first of the forms in ``FORMS`` that the folder has.

    Args:
        folder: The folder; files of other forms and names are left out.
        account: Counts the files.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    account = account or Account()
    try:
        found = Listing(folder, account).level(folder)[1]
    except InputError as problem:
        raise DataError(str(problem)) from None
    names = next((form for form in FORMS if any(file.name in form for file in found)), ())
    for file in found:
        if file.name in names:
            account.files += 1
        else:
            account.leave("file of another name", ending=file.suffix.lower())
    if (folder / "usps.h5").is_file():
        return _from_h5(folder / "usps.h5")
    forms = [(FORMS[1], gzip.GzipFile, _from_text), (FORMS[2], bz2.BZ2File, _from_libsvm)]
    for (train, test), unpack, read in forms:
        present = [folder / name for name in (train, test) if (folder / name).is_file()]
        if present:
            halves = []
            for path in present:
                try:
                    with unpack(path) as file:
                        # A limit, because a small packed file can unpack to gigabytes.
                        text = file.read(SIZE_LIMIT + 1)
                    if len(text) > SIZE_LIMIT:
                        raise DataError(f"{path} unpacks to more than {SIZE_LIMIT:,} bytes; it is not the USPS file")
                    halves.append(_half(*_rows(text, read), path))
                except (OSError, EOFError, zlib.error, ValueError) as problem:
                    raise DataError(f"{path} is not the USPS file of that name: {str(problem)[:200]}") from None
            if present[0].name == test:
                account.note("there is no training half: the test half is split")
            return Dataset(train=halves[0], test=halves[1] if len(halves) == 2 else None, classes=tuple("0123456789"))
    raise DataError(f"{folder} has no USPS files; usps.h5, zip.train.gz or usps.bz2 were expected")


def _from_h5(path: Path) -> Dataset:
    with needs(str(path), extra="train"):
        import h5py

    halves = []
    try:
        with h5py.File(path, "r") as file:
            for group in ("train", "test"):
                data, target = file[group]["data"], file[group]["target"]
                # Judged by the declared shapes, before any number is read.
                fitting = data.shape[1:] == (VALUES,) and target.shape == data.shape[:1] and len(data) <= ROW_LIMIT
                if not fitting or data.dtype.kind not in "fiu" or target.dtype.kind not in "fiu":
                    raise ValueError(
                        f"{group} has the shapes {data.shape}, {data.dtype}, and {target.shape}, {target.dtype}, but (n, {VALUES}) and (n,) were expected"
                    )
                halves.append(_half(data[:], target[:], path))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as problem:
        raise DataError(f"{path} is not an HDF5 file with groups train and test: {problem}") from None
    return Dataset(train=halves[0], test=halves[1], classes=tuple("0123456789"))


def _rows(text: bytes, read: Callable[[list[bytes]], list[float]]) -> tuple[Array, Array]:
    """Parse values, scaled to 0 to 1, and labels, one row per line."""
    # Into an array, line by line: a list of all words takes many times the memory of the numbers.
    rows, lines = array.array("d"), 0
    for number, line in enumerate(io.BytesIO(text), start=1):
        if len(line) > LINE_LIMIT:
            raise ValueError(f"line {number} has {len(line):,} bytes")
        words = line.split()
        if not words:
            continue
        try:
            row, lines = read(words), lines + 1
        except ValueError as problem:
            raise ValueError(f"line {number}: {problem}") from None
        if len(row) != VALUES + 1 or lines > ROW_LIMIT:
            raise ValueError(
                f"line {number} has {plural(len(row) - 1, 'value')}, but {VALUES}, in at most {ROW_LIMIT:,} lines, were expected"
            )
        rows.extend(row)
    table = np.frombuffer(rows, dtype=np.float64).reshape(-1, VALUES + 1)
    return (table[:, 1:] + 1) / 2, table[:, 0]


def _from_text(words: list[bytes]) -> list[float]:
    return list(map(float, words))


def _from_libsvm(words: list[bytes]) -> list[float]:
    row, last = [float(words[0]) - 1] + [0.0] * VALUES, 0
    for word in words[1:]:
        index, _, value = word.partition(b":")
        place = PLACES.get(index, 0)
        # Rising indices, so that no value is given twice.
        if place <= last or not value or b":" in value:
            shown = word[:40].decode("ascii", "backslashreplace")
            raise ValueError(
                f"{shown!r} was found, but index:value was expected, indices from 1 to {VALUES} and rising"
            )
        row[place], last = float(value), place
    return row


def _half(data: Array, target: Array, path: Path) -> Split:
    target = np.asarray(target, dtype=np.float64)
    # -1 where a label is no whole number, so that the check below refuses it: a cast would truncate 0.5, and has no result for NaN.
    labels = np.where(np.isfinite(target) & (target % 1 == 0), target, -1).astype(np.int64)
    if (
        data.ndim != 2
        or data.shape[1] != VALUES
        or labels.shape != data.shape[:1]
        or not np.isin(labels, range(10)).all()
    ):
        raise DataError(
            f"{path} holds values of shape {data.shape} and labels of shape {labels.shape}, but (n, 256) and n digits were expected"
        )
    # 1e-6 for rounding. "not all" instead of "any outside", so that NaN is refused too.
    if not (np.abs(data - 0.5) <= 0.5 + 1e-6).all():
        raise DataError(
            f"{path} holds values from {np.min(data):g} to {np.max(data):g} after scaling, but USPS's are from 0 to 1"
        )
    return Split(images=np.clip(data, 0, 1).astype(np.float32).reshape(-1, 1, 16, 16), labels=labels)
