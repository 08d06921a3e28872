"""What is in a folder of samples, as far as a recipe must know it: classes, groups, sizes. Files are found by the rules of ``isoform train``.

    folder/<class>/…    images, recordings (.csv, .tsv) or sounds (.wav); or train/ and test/ with such folders
    folder              with one table that has a column "label", or one .npz with arrays x and labels
    a table, an .npz

Of images a hundred are opened, of sounds the headers; tables and arrays are read. Must never import torch.
"""

from __future__ import annotations

import dataclasses
import os
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from isoform.runtime.errors import DataError
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.samples.account import Account, plural
from isoform.runtime.samples.arrays import is_arrays, read_arrays
from isoform.runtime.samples.labelled import read_labelled_arrays
from isoform.runtime.samples.limits import image_pixels
from isoform.runtime.samples.listing import Listing
from isoform.runtime.samples.names import normal
from isoform.runtime.samples.parquet import opened_table
from isoform.runtime.samples.pictures.images import load_image
from isoform.runtime.samples.pictures.pillow_limit import pillow_allows
from isoform.runtime.samples.reading import Found, Reader, sort_out
from isoform.runtime.samples.recordings.recordings import Recordings, channels_of, column_of
from isoform.runtime.samples.sounds.files import is_sound
from isoform.runtime.samples.tables import Table, is_number, is_table
from isoform.train.data.formats.files import check_halves
from isoform.train.suggest.times import rows_per_second

__all__ = ["Survey", "surveyed"]

OPENED = 100
"""Images that are opened, at most."""
ORIENTATION = 274
"""EXIF's number of the orientation; from 5 on, height and width are exchanged."""
What = Literal["image", "recording", "sound", "array"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """What is in a folder. Lists are parallel, with an entry for each image, recording, sound, or sample of an array."""

    what: What
    path: str = ""
    """Where the samples are below the folder that was looked at; empty for the folder itself."""
    halves: bool = False
    """Whether there are ``train`` and ``test``; the lists are then of ``train``."""
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None
    """Names of groups; None if the data name none."""
    shape: tuple[int, int, int]
    """Channels, height, width: of the median image, of an array's samples; of recordings (channels, 1, 1), of sounds (1, 1, 1)."""
    columns: tuple[str, ...] = ()
    """Channels of recordings."""
    lengths: tuple[int, ...] = ()
    """Rows of recordings, and samples of sounds."""
    rate: float | None = None
    """Rows of a recording, or samples of a sound, per second; None if unknown."""
    vectors: bool = False
    """Whether an array's samples are feature vectors."""
    account: Account
    """What was left out."""


def surveyed(folder: Path) -> Survey:
    """Look at a folder, a table, or an .npz.

    Raises:
        DataError: If it has no samples, no classes, or samples of several sorts; the message says what was expected.
        InputError: If a file is malformed.
    """
    account = Account()
    if not os.path.isdir(folder):
        return _file(folder, "", account)
    parts = [folder / "train", folder / "test"]
    if all(part.is_dir() for part in parts):
        found = [_whole(part, account) for part in parts]
        check_halves(folder, found[0].labels, found[1].labels)
        return dataclasses.replace(found[0], halves=True)
    folders, files = Listing(folder, Account()).level(folder)
    single = [path for path in files if is_arrays(path) or is_table(path)]
    if len(single) == 1 and not any(Listing(folder, Account()).below(place) for place in folders):
        return _file(single[0], single[0].name, account)
    return _whole(folder, account)


def _whole(folder: Path, account: Account) -> Survey:
    """Look at a folder that is a data set or a half of one."""
    return _array(folder, "", account) if is_arrays(folder) else _classes(folder, account)


def _file(path: Path, name: str, account: Account) -> Survey:
    if is_arrays(path):
        return _array(path, name, account)
    if not is_table(path):
        what = "cannot be looked at" if path.exists() else "does not exist"
        raise DataError(
            f"{path} {what}; a folder, a .csv or .tsv with a column label, an .npz or an .npy with labels.npy beside it was expected"
        )
    table = opened_table(path)
    if column_of(table, "label") is None:
        raise DataError(f"{path} has columns {', '.join(table.header)[:200]}, but one named label was expected")
    if column_of(table, "file") is None:
        return _recordings([(table, None)], name, account)
    listed = [*Reader((1, 1, 1), account, reading=Reading(), where=path).listed_in(table)]
    return _listed(listed, "sound" if is_sound(listed[0].path.suffix.lower()) else "image", name, account)


def _classes(folder: Path, account: Account) -> Survey:
    """Look at a folder with a folder per class."""
    listing = Listing(folder, account)
    found: dict[What, list[Found]] = {"image": [], "recording": [], "sound": []}
    classes = listing.classes(folder)
    for label, place in classes.items():
        files = listing.below(place)
        sounds = {path for path in files if is_sound(path.suffix.lower())}
        readable = [*sounds, *sort_out([path for path in files if path not in sounds], (1, 1, 1), account)]
        if not readable:
            raise DataError(
                f"{place} has no images, recordings (.csv, .tsv) or sounds (.wav); add some, or remove the folder{account.advice()}"
            )
        for path in sorted(readable):
            inside = path.relative_to(place).parts[:-1]
            what: What = "sound" if path in sounds else "recording" if is_table(path) else "image"
            found[what].append(Found(path, label, normal(inside[0]) if inside else "", ""))
    sorts = [f"{plural(len(files), what)}, such as {files[0].path}" for what, files in found.items() if files]
    if len(classes) < 2:
        raise DataError(
            f"{folder} has {plural(len(classes), 'folder')}, but at least two, one per class, were expected; or a table, or an .npz"
        )
    if len(sorts) > 1:
        raise DataError(f"{folder} holds {' and '.join(sorts)}; a recipe reads samples of one sort, move the others")
    if found["recording"]:
        return _recordings([(opened_table(one.path), one.label) for one in found["recording"]], "", account)
    return _listed(found["sound"] or found["image"], "sound" if found["sound"] else "image", "", account)


def _listed(found: Sequence[Found], what: What, name: str, account: Account) -> Survey:
    """Look at images or sounds."""
    groups = tuple(one.group for one in found) if all(one.group for one in found) else None
    labels = tuple(one.label for one in found)
    if what == "image":
        shape = _median(found[:: -(-len(found) // OPENED)])
        return Survey(what=what, path=name, labels=labels, groups=groups, shape=shape, account=account)
    heads = [_wave(one.path) for one in found]
    rate = float(np.median([rate for rate, _ in heads]))
    lengths = tuple(round(frames * rate / own) for own, frames in heads)
    return Survey(
        what=what, path=name, labels=labels, groups=groups, shape=(1, 1, 1), lengths=lengths, rate=rate, account=account
    )


def _median(found: Sequence[Found]) -> tuple[int, int, int]:
    """Return channels (1 if all images are grey), and the medians of height and width."""
    sizes, grey = [], True
    for one in found:
        small = load_image(one.path, shape=(3, 16, 16))
        grey = grey and float(np.ptp(small, axis=0).max()) < 2 / 255
        with pillow_allows(image_pixels()), Image.open(one.path) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            sizes.append((image.width, image.height) if turned else (image.height, image.width))
    height, width = np.median(sizes, axis=0)
    return 1 if grey else 3, round(height), round(width)


def _wave(path: Path) -> tuple[int, int]:
    """Return the rate and length of a WAV file."""
    try:
        with wave.open(str(path)) as file:
            rate, frames = file.getframerate(), file.getnframes()
    except (wave.Error, EOFError, OSError) as problem:
        raise DataError(
            f"the length of {path} cannot be read: {str(problem) or 'it ends too early'}; convert it to WAV with 16 bits, or begin with "
            "'isoform recipe show keywords'"
        ) from None
    if not frames:
        raise DataError(f"{path} holds no sound; remove it")
    return rate, frames


def _recordings(tables: Sequence[tuple[Table, str | None]], name: str, account: Account) -> Survey:
    """Look at recordings: each table with the label of its folder, or None if a column says it."""
    first = tables[0][0]
    names = channels_of(first)
    _, row = next(first.rows())
    columns = tuple(name for name, place in names.items() if is_number(row[place]))
    if not columns:
        raise DataError(
            f"{first.path} has no column of numbers beside times and row numbers; it has {', '.join(first.header)[:150]}"
        )
    read = Recordings((len(columns), 1, 1), account, reading=Reading(columns=columns))
    pieces = [(len(piece.x), piece.label, piece.group) for table, label in tables for piece in read.read(table, label)]
    lengths, labels, groups = zip(*pieces, strict=True)
    return Survey(
        what="recording", path=name, labels=labels, groups=groups, shape=(len(columns), 1, 1), columns=columns, lengths=lengths,
        rate=rows_per_second(first), account=account,
    )  # fmt: skip


def _array(path: Path, name: str, account: Account) -> Survey:
    arrays = read_arrays(path, account, limited=False)
    size = arrays["x"].shape[1:] if "x" in arrays else ()
    shapes = {1: (*size, 1, 1), 2: (*size[:1], 1, *size[1:]), 3: size}
    if "x" in arrays and len(size) not in shapes:
        raise DataError(
            f"{path} holds x of shape {arrays['x'].shape}, but (n, features), (n, channels, steps) or (n, channels, height, width) was expected"
        )
    shape = tuple(map(int, shapes.get(len(size), (1, 1, 1))))
    found = read_labelled_arrays(path, arrays, takes=Input(what="image", shape=shape), account=account)
    return Survey(
        what="array", path=name, labels=found.labels, groups=found.groups, shape=(shape[0], shape[1], shape[2]), vectors=len(size) == 1,
        account=account,
    )  # fmt: skip
