"""Read a folder of images with one folder per class: ``<class>/**/*.png``, or the same below ``train/`` and ``test/``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isoform.runtime.errors import DataError, InputError
from isoform.runtime.samples.account import Account, plural
from isoform.runtime.samples.listing import Listing
from isoform.runtime.samples.pictures.formats import ENDINGS
from isoform.runtime.samples.pictures.images import load_image
from isoform.runtime.samples.reading import sort_out
from isoform.train.data.samples import Dataset, Split

__all__ = ["read_image_folder"]


def read_image_folder(folder: Path, *, shape: tuple[int, int, int], account: Account | None = None) -> Dataset:
    """Read every image; the rules for files are those of ``isoform personalize`` (``runtime/samples``).

    Args:
        folder: Holds a folder per class, or ``train`` and ``test`` that do.
        shape: Channels, height and width to which every image is converted.
        account: Counts the files that are read and left out.

    Raises:
        DataError: If there are fewer than two classes, a class has no image, the halves have different classes, or a file is not
            an image.
    """
    account = account or Account()
    try:
        return _read(folder, shape, account)
    except InputError as problem:
        raise DataError(str(problem)) from None


def _read(folder: Path, shape: tuple[int, int, int], account: Account) -> Dataset:
    parts = [folder / "train", folder / "test"]
    # Both or none: a class may be named "train".
    roots = parts if all(part.is_dir() for part in parts) else [folder]
    if len(roots) == 2:
        _leave_others(folder, account)
    halves: list[Split] = []
    classes: list[str] = []
    for root in roots:
        listing = Listing(root, account)
        found = listing.classes(root)
        names = sorted(found)
        if len(names) < 2:
            raise DataError(
                f"{root} has {plural(len(names), 'folder')}, but at least two, one per class, were expected"
            )
        if halves and names != classes:
            only = ", ".join(sorted(set(names) ^ set(classes)))
            raise DataError(f"{folder} has classes in only one of train and test: {only}; both need the same classes")
        classes = names
        files = [(path, i) for i, name in enumerate(names) for path in _images(found[name], listing, shape, account)]
        # Filled in place: a list of arrays and a stack of them would need twice the memory.
        images = np.empty((len(files), *shape), dtype=np.float32)
        for image, (path, _) in zip(images, files, strict=True):
            image[:] = load_image(path, shape=shape, account=account)
        account.files += len(files)
        halves.append(Split(images=images, labels=np.array([label for _, label in files])))
    account.classes.update(classes)
    return Dataset(train=halves[0], test=halves[1] if len(halves) == 2 else None, classes=tuple(classes))


def _images(folder: Path, listing: Listing, shape: tuple[int, int, int], account: Account) -> list[Path]:
    found = sort_out(listing.below(folder), shape, account, tables=False)
    if not found:
        raise DataError(
            f"{folder} has no images; files ending in {', '.join(sorted(ENDINGS))} were expected{account.advice()}"
        )
    return found


def _leave_others(folder: Path, account: Account) -> None:
    """Count the files beside ``train`` and ``test``."""
    listing = Listing(folder, account)
    folders, files = listing.level(folder)
    others = [path for place in folders if place.name not in ("train", "test") for path in listing.below(place)]
    for path in files + others:
        account.leave("file beside the folders of the classes", ending=path.suffix.lower())
