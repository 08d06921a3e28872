"""Read labelled samples by the rules of ``isoform personalize`` (``runtime/samples/labelled.py``): images, recordings, sounds or arrays.

The path is a folder with a folder per class, a table, or arrays; or a folder with ``train`` and ``test`` that are. Images are listed
here, and decoded later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isoform.runtime.errors import DataError, InputError
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.labelled import list_images, read_labelled
from isoform.runtime.samples.listing import Listing
from isoform.train.data.pictures import Images, Pictures
from isoform.train.data.samples import Dataset, Split

__all__ = ["check_halves", "read_files"]


def read_files(path: Path, *, shape: tuple[int, int, int], account: Account, reading: Reading) -> Dataset:
    """Read a data set.

    Args:
        path: As the module's docstring says.
        shape: Channels, height and width of a sample; windows of recordings have height 1, feature vectors one pixel.
        account: Counts what is read and left out.
        reading: How an earlier task's samples were read, for these to be read likewise.

    Raises:
        DataError: If a file is malformed, or ``train`` and ``test`` have different classes.
    """
    parts = [path / "train", path / "test"]
    try:
        # both or none: a class may be named "train"
        halves = parts if all(part.is_dir() for part in parts) else [path]
        if len(halves) == 2:
            _leave_others(path, account)
        found = [_Half(half, shape, account, reading) for half in halves]
    except InputError as problem:
        raise DataError(str(problem)) from None
    classes = tuple(sorted({*found[0].labels}))
    for half in found[1:]:
        check_halves(path, classes, half.labels)
        if half.columns != found[0].columns:
            raise DataError(
                f"{path} has recordings with the columns {half.columns} in test, but {found[0].columns} in train; use the same names and order"
            )
    splits = [half.split(classes) for half in found]
    return Dataset(
        train=splits[0], test=splits[1] if len(splits) == 2 else None, classes=classes, columns=found[0].columns, account=account
    )  # fmt: skip


def check_halves(path: Path, train: Sequence[str], test: Sequence[str]) -> None:
    """Raise ``DataError`` unless both halves of a data set have the same classes."""
    if only := {*train} ^ {*test}:
        raise DataError(
            f"{path} has classes in only one of train and test: {', '.join(sorted(only))}; both need the same classes"
        )


class _Half:
    """The samples of one folder, table or file."""

    def __init__(self, path: Path, shape: tuple[int, int, int], account: Account, reading: Reading) -> None:
        takes = Input(what="image", shape=shape)
        self.columns: tuple[str, ...] | None = None
        self.groups: Sequence[str] | None
        if (found := list_images(path, takes=takes, account=account, reading=reading)) is not None:
            self.images: Images = Pictures(found, shape)
            self.labels: Sequence[str] = [one.label for one in found]
            self.groups = [one.group for one in found] if all(one.group for one in found) else None
            self.unit = "group"
            account.classes.update(self.labels)
            account.groups.update(self.groups or ())
        else:
            read = read_labelled(path, takes=takes, reading=reading, limited=False)
            self.images, self.labels, self.groups = read.x, read.labels, read.groups
            self.columns, self.unit = read.columns, read.unit
            account.add(read.account)

    def split(self, classes: Sequence[str]) -> Split:
        """Return the samples with their labels as indices."""
        index = {name: place for place, name in enumerate(classes)}
        labels = np.array([index[label] for label in self.labels], dtype=np.int64)
        groups = None if self.groups is None else np.array(self.groups)
        return Split(images=self.images, labels=labels, groups=groups, unit=self.unit)


def _leave_others(folder: Path, account: Account) -> None:
    """Count the files beside ``train`` and ``test``."""
    listing = Listing(folder, account)
    folders, files = listing.level(folder)
    others = [path for place in folders if place.name not in ("train", "test") for path in listing.below(place)]
    for path in files + others:
        account.leave("file beside the folders of the classes", ending=path.suffix.lower())
