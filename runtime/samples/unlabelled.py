"""Samples of a stream from a user's files. Labels are optional and used only to report the accuracy; adaptation never sees them.

    folder/*.png, *.csv, *.wav    one image per sample, or recordings or sounds, in the order of their names, subfolders included;
                                  recordings may have a column "label"
    sound.wav                     one sound, of which windows are cut
    samples.csv                   one column per channel, one row per time step; or a column "file" of images or sounds
    samples.npz, x.npy            an array "x", shape (n, …) of the network's input

All formats of ``labelled.py`` are read as well. Recordings and sounds are cut into windows as there.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.arrays import is_arrays, read_arrays
from isoform.runtime.samples.collected import Piece, collected
from isoform.runtime.samples.grid import grid_of
from isoform.runtime.samples.labelled import AS_IT_IS, Labelled, read_labelled, read_labelled_arrays, samples_of_array
from isoform.runtime.samples.listing import Listing
from isoform.runtime.samples.parquet import opened_table
from isoform.runtime.samples.reading import Reader, check_one_kind
from isoform.runtime.samples.recordings.recordings import column_of
from isoform.runtime.samples.sounds.files import is_sound
from isoform.runtime.samples.tables import is_table

__all__ = ["Stream", "read_stream"]


@dataclasses.dataclass(frozen=True)
class Stream:
    """Samples in order."""

    x: Array
    """Shape (n, …) of the network's input; float32, or int64 for tokens."""
    labels: tuple[str, ...] | None
    """n class names, to report the accuracy; None if unknown."""
    numbers: bool = False
    """As ``Labelled.numbers``."""
    account: Account = dataclasses.field(default_factory=Account, compare=False)
    """What was read and what was skipped."""


def read_stream(path: Path, *, takes: Input, skip_short: bool = False, reading: Reading = AS_IT_IS) -> Stream:
    """Read samples.

    Args:
        path: A folder, a table, an .npz file or a sound, as described in the module's docstring.
        takes: The network's input.
        skip_short: Skip a class whose recordings are all shorter than a window, instead of raising an error.
        reading: How samples were read for training, ``Bundle.reading``.

    Raises:
        InputError: If there are no samples, or a file is malformed; the message has the file, and the line if there is one.
    """
    account, ending = Account(), path.suffix.lower()
    if is_arrays(path):
        arrays = read_arrays(path, account)
        if "labels" in arrays:
            return _with_labels(read_labelled_arrays(path, arrays, takes=takes, account=account))
        if "x" not in arrays:
            raise InputError(f"{path} has no array x; write it with numpy.savez(path, x=...)")
        return Stream(samples_of_array(path, arrays["x"], takes=takes, account=account), None, account=account)
    if os.path.isdir(path):
        shape = grid_of(takes, path)
        if _is_stream(path, shape, account, reading):
            reader = Reader(shape, account, reading=reading, where=path, skip_short=skip_short)
            files = reader.sort_out(Listing(path, account).below(path))
            check_one_kind(files, where=path)

            def found() -> Iterator[Piece]:
                yield from reader.read(files, None, folder=path)
                reader.close()

            return _stream(path, found(), takes, account)
    elif is_table(path):
        shape, table = grid_of(takes, path), opened_table(path)
        if column_of(table, "label") is None:
            reader = Reader(shape, account, reading=reading, where=path)
            if column_of(table, "file") is not None:
                return _stream(path, reader.named(table), takes, account)
            # no close(): without labels no class can lack a window
            return _stream(path, reader.recordings(table), takes, account)
    elif reading.sound is not None and is_sound(ending):
        reader = Reader(grid_of(takes, path), account, reading=reading, where=path)
        return _stream(path, reader.read([path], None, folder=path.parent), takes, account)
    return _with_labels(read_labelled(path, takes=takes, skip_short=skip_short, reading=reading))


def _is_stream(folder: Path, shape: tuple[int, int, int], account: Account, reading: Reading) -> bool:
    """Return whether samples are directly in the folder, not in a folder per label. Adds a note if there are both."""
    aside = Account()  # this first look must not count files twice
    folders, files = Listing(folder, aside).level(folder)
    samples = Reader(shape, aside, reading=reading, where=folder).sort_out(files)
    if samples and folders:
        account.note(
            f"{samples[0].name!r} is next to folders, so all files are one stream and folder names are not used as labels"
        )
    return bool(samples)


def _stream(path: Path, found: Iterable[Piece], takes: Input, account: Account) -> Stream:
    shape = grid_of(takes, path)
    x, labels, _ = collected(found, shape)
    if not len(x):
        raise InputError(f"{path} has no samples; a window needs {shape[2]} rows")
    account.classes.update(filter(None, labels))
    return Stream(x.reshape(len(x), *takes.largest), labels if all(labels) else None, account=account)


def _with_labels(found: Labelled) -> Stream:
    return Stream(found.x, found.labels, found.numbers, found.account)
