"""Selecting the images, recordings and sounds that a network can read from a folder's files, and reading them in order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Reading
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.collected import Piece
from isoform.runtime.samples.names import Names, normal
from isoform.runtime.samples.parquet import opened_table
from isoform.runtime.samples.pictures.formats import is_image, remedy
from isoform.runtime.samples.pictures.images import load_image
from isoform.runtime.samples.recordings.recordings import Recordings, column_of
from isoform.runtime.samples.sounds.clips import check_fits, clips
from isoform.runtime.samples.sounds.files import is_sound
from isoform.runtime.samples.tables import Table, is_table

__all__ = ["Found", "Reader", "check_one_kind", "sort_out"]


def sort_out(files: list[Path], shape: tuple[int, int, int], account: Account, *, sounds: bool = False) -> list[Path]:
    """Return the files that the network can read samples from; the others are counted, with advice on how to make them readable.

    Args:
        files: All files that are not hidden.
        shape: Channels (1 or 3: images are readable), height (1: recordings are readable), width of a sample.
        account: Counts what is skipped.
        sounds: Whether samples are sounds, and nothing else.
    """
    images, tables = not sounds and shape[0] in (1, 3), not sounds and shape[1] == 1
    what = "neither image nor recording" if images and tables else "no image" if images else "no recording"
    kept = []
    for path in files:
        ending = path.suffix.lower()
        if (images and is_image(ending)) or (tables and is_table(path)) or (sounds and is_sound(ending)):
            kept.append(path)
            continue
        account.leave(f"file that is {'no sound' if sounds else what}", ending=ending)
        if images and (advice := remedy(ending)):
            account.remedies[ending] = advice
    return kept


def check_one_kind(files: list[Path], *, where: Path) -> None:
    """Raise ``InputError`` if there are both images and recordings, and the network could read samples from either."""
    pictures = [path for path in files if not is_table(path)]
    if pictures and len(pictures) < len(files):
        table = next(path for path in files if is_table(path))
        raise InputError(
            f"{where} holds images and recordings, {pictures[0]} and {table}, and this network can read both; remove the ones that are not samples"
        )


class Found(NamedTuple):
    """An image or a sound that was listed, but not read."""

    path: Path
    label: str
    """An empty string if there is none."""
    group: str
    """An empty string if unknown."""
    at: str
    """Where it is named, for messages: ``samples.csv, line 4: ``; an empty string if it is in a folder."""


class Reader:
    """Reads the samples of one data set, as they were read in training.

    Args:
        shape: Channels, height, width of a sample.
        account: Counts what is read and skipped.
        reading: Columns, stride, sounds.
        skip_short: Skip classes whose recordings are all shorter than a window.
        where: The data set, for messages.

    Attributes:
        grouped: Whether the subfolders of ``folder`` are groups, which they are if every image or sound is in one.

    Raises:
        InputError: If sounds are to be read, and the samples are no spectrograms of them.
    """

    def __init__(
        self, shape: tuple[int, int, int], account: Account, *, reading: Reading, where: Path, skip_short: bool = False
    ) -> None:
        self._shape, self._account, self._reading = shape, account, reading
        self.grouped = True
        self._recordings = Recordings(shape, account, reading=reading, skip_short=skip_short)
        if reading.sound is not None:
            check_fits(reading.sound, shape, where=where)

    @property
    def what(self) -> str:
        """What the files of samples are, for messages."""
        what = "images and no .csv or .tsv files" if self._reading.sound is None else "sounds"
        return f"{what} for samples of shape {self._shape}"

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the channels of the recordings that were read; None if there were none."""
        return self._recordings.columns if self._account.taken["recording"] else None

    def sort_out(self, files: list[Path]) -> list[Path]:
        """Return the files that samples can be read from, as the function ``sort_out``."""
        return sort_out(files, self._shape, self._account, sounds=self._reading.sound is not None)

    def read(self, files: list[Path], label: str | None, *, folder: Path) -> Iterator[Piece]:
        """Read the samples of files.

        Args:
            files: The result of ``sort_out``.
            label: Label of all files; None if only a recording's column "label", if any, gives it.
            folder: Where the files are; the group of an image or sound is the name of its subfolder there.

        Yields:
            First the images or sounds file by file, then each recording's windows.
        """
        for found in self.listed(files, label or "", folder=folder):
            yield self.piece(found)
            self._account.files += 1
        for path in files:
            if is_table(path):
                yield from self._recordings.read(opened_table(path), label)

    def listed(self, files: list[Path], label: str, *, folder: Path) -> Iterator[Found]:
        """List the images or sounds among files, the result of ``sort_out``, without opening them."""
        for path in files:
            if not is_table(path):
                inside = path.relative_to(folder).parts[:-1]
                yield Found(path, label, normal(inside[0]) if inside and self.grouped else "", "")

    def recordings(self, table: Table) -> Iterator[Piece]:
        """Read the windows of a table's recordings."""
        return self._recordings.read(table)

    def close(self) -> None:
        """Finish reading: check that every class of recordings has a window. Raises ``InputError``."""
        self._recordings.close()

    def named(self, table: Table) -> Iterator[Piece]:
        """Read the images or sounds that a table names. Raises ``InputError`` as ``listed_in``, and if a file cannot be read."""
        return map(self.piece, self.listed_in(table))

    def listed_in(self, table: Table) -> Iterator[Found]:
        """List the images or sounds in a table's column ``file``, with what its columns ``label`` and ``group`` say.

        Raises:
            InputError: If two rows give a file different labels or groups; the message has the lines.
        """
        file = column_of(table, "file")
        assert file is not None
        said = {"label": column_of(table, "label"), "group": column_of(table, "group")}
        names = {what: Names(written=True, what=what) for what in said}
        met = dict[str, tuple[int, dict[str, str]]]()
        for line, row in table.rows():
            at = table.line_of(line, row, said["label"] or 0)
            found = {
                what: names[what].add(row[place], f"{table.path}, line {table.line_of(line, row, place)},")
                for what, place in said.items()
                if place is not None
            }
            path = table.path.parent / row[file].strip()
            # by the real path: another spelling of a path, or a link, must not give a file two labels
            # no path has a zero byte; ``piece`` says so
            place_of = str(path) if "\0" in row[file] else os.path.realpath(path)
            first, others = met.setdefault(place_of, (at, found))
            for what, name in found.items():
                if others[what] != name:
                    both = f"the {what} {others[what]!r} in line {first} and {name!r} in line {at}"
                    raise InputError(
                        f"{table.path} gives {path} {both}; a sample has one {what}, remove one of the two lines"
                    )
            if first != at:
                self._account.note(f"a row repeats the {'sound' if self._reading.sound else 'image'} of another row")
            yield Found(path, found.get("label", ""), found.get("group", ""), f"{table.path}, line {at}: ")
        self._account.leave(
            "other column", sum(place not in (file, *said.values()) for place in range(len(table.header)))
        )
        self._account.files += len(met)
        self._account.leave("commented line", table.comments)

    def piece(self, found: Found) -> Piece:
        """Read the samples of an image or sound. Raises ``InputError`` if that is not possible."""
        try:
            if self._reading.sound is None:
                x: Array = load_image(found.path, shape=self._shape, account=self._account)[None]
                return Piece(x, found.label, found.group, found.path)
            x = clips(
                found.path, sound=self._reading.sound, shape=self._shape, stride=self._reading.stride, account=self._account
            )  # fmt: skip
        except InputError as problem:
            raise InputError(f"{found.at}{problem}") from None
        if found.group:
            self._account.groups.add(found.group)
        # the windows of one file are alike, and so a group
        step = self._reading.stride or self._shape[2]
        rows = range(0, len(x) * step, step) if len(x) > 1 else None
        return Piece(x, found.label, found.group or str(found.path), found.path, rows)
