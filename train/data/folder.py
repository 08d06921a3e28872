"""A folder of images, one folder per class: ``<class>/*.png``, or the same below ``train/`` and ``test/``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isoform.runtime.errors import DataError, InputError
from isoform.runtime.samples.images import load_image
from isoform.runtime.samples.labelled import IMAGE_ENDINGS, image_files
from isoform.train.data.samples import Dataset, Split

__all__ = ["read_image_folder"]


def read_image_folder(folder: Path, *, shape: tuple[int, int, int]) -> Dataset:
    """Read every image.

    Args:
        folder: Holds a folder per class, or ``train`` and ``test`` that do.
        shape: Channels, height, width that every image is made into.

    Raises:
        DataError: If there are fewer than two classes, a class has no image, or a file is not an image.
    """
    parts = [folder / "train", folder / "test"]
    roots = parts if all(part.is_dir() for part in parts) else [folder]
    classes = sorted(entry.name for entry in roots[0].iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise DataError(f"{roots[0]} has {len(classes)} folders, but one per class, two at least, was expected")
    halves = []
    for root in roots:
        files = [(path, label) for label, name in enumerate(classes) for path in _images(root / name)]
        images = np.empty((len(files), *shape), dtype=np.float32)
        for image, (path, _) in zip(images, files, strict=True):
            try:
                image[:] = load_image(path, shape=shape)
            except InputError as problem:
                raise DataError(f"{problem}; remove it from {folder}") from None
        halves.append(Split(images=images, labels=np.array([label for _, label in files])))
    return Dataset(train=halves[0], test=halves[1] if len(halves) == 2 else None, classes=tuple(classes))


def _images(folder: Path) -> list[Path]:
    found = image_files(folder)
    if not found:
        raise DataError(f"{folder} has no images; files ending in {', '.join(sorted(IMAGE_ENDINGS))} were expected")
    return found
