"""Samples for prediction, a few at a time, each with the place that it was read from, so that memory does not grow with their number.

    an image file, whatever its name        one sample
    a sound file                            its windows
    a folder                                its images, recordings or sounds, subfolders included; if all are in subfolders, these are classes,
                                            but of tables with a column label
    a table, or arrays                      as in ``unlabelled.py`` and ``labelled.py``

Labels are passed on where there are some; none is needed.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.arrays import is_arrays, read_arrays
from isoform.runtime.samples.collected import Piece
from isoform.runtime.samples.grid import grid_of
from isoform.runtime.samples.labelled import AS_IT_IS, read_labelled_arrays, samples_of_array
from isoform.runtime.samples.listing import SPLITS, Listing
from isoform.runtime.samples.names import normal
from isoform.runtime.samples.parquet import opened_table
from isoform.runtime.samples.reading import Reader, check_one_kind
from isoform.runtime.samples.recordings.recordings import column_of
from isoform.runtime.samples.tables import is_table

__all__ = ["Chunk", "Place", "read_chunks"]


class Place(NamedTuple):
    """Where a sample was read from."""

    path: Path
    window: int | None = None
    """Number of the window in the file, from 0; None if the sample is not one of several."""
    row: int | None = None
    """Row of the table, without the header, or frame of the sound, where the window begins, or row of the array; from 0. None for a whole file."""


class Chunk(NamedTuple):
    """Some samples."""

    x: Array
    """Shape (n, …) of the network's input."""
    places: tuple[Place, ...]
    given: tuple[str, ...]
    """n class names that the files state; empty strings where they state none."""


class _Sample(NamedTuple):
    x: Array
    place: Place
    given: str


def read_chunks(
    paths: Sequence[Path], *, takes: Input, account: Account, chunk: int, reading: Reading = AS_IT_IS
) -> Iterator[Chunk]:
    """Read samples in chunks.

    Args:
        paths: Files and folders.
        takes: The network's input.
        account: Counts what is read and skipped.
        chunk: Largest number of samples in a chunk; those of open lengths are also of one length.
        reading: How samples were read for training, ``Bundle.reading``.

    Raises:
        InputError: If a file is malformed or cannot be read, or there are no samples; for a folder without any, before anything is read.
    """
    reader = _Reader(takes, account, reading)
    found = [reader.read(path) for path in paths]
    waiting: list[_Sample] = []
    for sample in itertools.chain.from_iterable(found):
        if waiting and sample.x.shape != waiting[0].x.shape:
            yield _together(waiting)
            waiting = []
        waiting.append(sample)
        # at once: if the next file cannot be read, this chunk has been
        if len(waiting) == chunk:
            yield _together(waiting)
            waiting = []
    if waiting:
        yield _together(waiting)
    if not account.files:
        wanted = f"; a window needs {takes.largest[-1]} rows" if account.left["recording shorter than a window"] else ""
        raise InputError(f"{paths[0]} has no samples{wanted}")


def _together(samples: Sequence[_Sample]) -> Chunk:
    return Chunk(
        np.stack([sample.x for sample in samples]), tuple(sample.place for sample in samples), tuple(sample.given for sample in samples)
    )  # fmt: skip


@dataclasses.dataclass
class _Reader:
    """The readers of one command, which agree on the order of a recording's channels."""

    takes: Input
    account: Account
    reading: Reading
    reader: Reader | None = None

    def read(self, path: Path) -> Iterator[_Sample]:
        """Return the samples of a file or folder; folders are listed at once. Raises ``InputError`` if a folder has none."""
        if is_arrays(path):
            return self._arrays(path)
        if not os.path.isdir(path):
            return self._pieces(self._table(path)) if is_table(path) else self._file(path)
        files = self._opened(path).sort_out(Listing(path, self.account).below(path))
        if not files:
            height = grid_of(self.takes, path)[1]
            what = "sounds" if self.reading.sound else "recordings" if height == 1 else "images"
            raise InputError(f"{path} has no {what}{self.account.advice()}")
        check_one_kind(files, where=path)
        return self._pieces(self._files(path, files))

    def _file(self, path: Path) -> Iterator[_Sample]:
        if self.reading.sound is None and (channels := grid_of(self.takes, path)[0]) not in (1, 3):
            what = "is no recording" if os.path.exists(path) else "does not exist"
            raise InputError(
                f"{path} {what}: a .csv, .tsv, .parquet, .npz or .npy file of {channels} channels was expected"
            )
        yield from self._pieces(self._opened(path).read([path], None, folder=path.parent))

    def _arrays(self, path: Path) -> Iterator[_Sample]:
        arrays, given = read_arrays(path, self.account), None
        if "labels" in arrays:
            labelled = read_labelled_arrays(path, arrays, takes=self.takes, account=self.account)
            x, given = labelled.x, labelled.labels
        elif "x" in arrays:
            x = samples_of_array(path, arrays["x"], takes=self.takes, account=self.account)
        else:
            raise InputError(f"{path} has no array x; write it with numpy.savez(path, x=...)")
        for row, values in enumerate(x):
            yield _Sample(values, Place(path, row=row), given[row] if given else "")

    def _files(self, folder: Path, files: Sequence[Path]) -> Iterator[Piece]:
        """Read a folder's files; if all are in subfolders, which are not the splits of a data set, those are their labels."""
        above = [path.relative_to(folder).parts[:-1] for path in files]
        first = [parts[0] if parts else "" for parts in above]
        if not all(first) or all(name.casefold() in SPLITS for name in first):
            yield from self._opened(folder).read([*files], None, folder=folder)
            return
        for name, members in itertools.groupby(zip(first, files, strict=True), key=lambda pair: pair[0]):
            inside = [path for _, path in members]
            # tables that have labels themselves are in folders for another reason, such as a day
            stated = any(is_table(path) and column_of(opened_table(path), "label") is not None for path in inside)
            yield from self._opened(folder).read(inside, None if stated else normal(name), folder=folder / name)

    def _table(self, path: Path) -> Iterator[Piece]:
        reader, table = self._opened(path), opened_table(path)
        yield from reader.named(table) if column_of(table, "file") is not None else reader.recordings(table)

    def _opened(self, path: Path) -> Reader:
        # never closed: a class without a window is no error where nothing is learned, and short recordings are counted
        self.reader = self.reader or Reader(grid_of(self.takes, path), self.account, reading=self.reading, where=path)
        return self.reader

    def _pieces(self, pieces: Iterable[Piece]) -> Iterator[_Sample]:
        """Take pieces apart, and number the windows of each file."""
        path, window = None, 0
        for piece in pieces:
            if piece.path != path:
                path, window = piece.path, 0
            assert piece.path is not None
            self.account.classes.update(filter(None, [piece.label]))
            for index, values in enumerate(piece.x):
                place = Place(piece.path)
                if piece.rows is not None:
                    place = Place(piece.path, window, piece.rows[index])
                    window += 1
                yield _Sample(values.reshape(self.takes.largest), place, piece.label)
