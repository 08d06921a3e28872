"""Reads the images given on a command line: files with any extension, and the image files below folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.batches import slices
from isoform.runtime.errors import InputError
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.listing import Listing
from isoform.runtime.samples.pictures.images import load_image
from isoform.runtime.samples.reading import sort_out

__all__ = ["read_images"]


def read_images(
    places: Sequence[Path], *, shape: tuple[int, int, int], account: Account, chunk: int
) -> Iterator[tuple[Array, tuple[Path, ...]]]:
    """Read images in chunks, so that memory does not grow with their number.

    Args:
        places: Files and folders.
        shape: Channels, height, width of the network's samples.
        account: Counts what is read and skipped.
        chunk: Maximum number of images in memory.

    Yields:
        Shape (n, channels, height, width), float32, n up to ``chunk``, and the n files.

    Raises:
        InputError: If a file is not an image, or a folder has none; for a folder, before anything is read.
    """
    paths: list[Path] = []
    for place in places:
        if os.path.isdir(place):
            found = sort_out(Listing(place, account).below(place), shape, account, tables=False)
            if not found:
                raise InputError(f"{place} has no images{account.advice()}")
            paths += found
        else:
            paths.append(place)
    for part in slices(len(paths), chunk):
        x = np.stack([load_image(path, shape=shape, account=account) for path in paths[part]])
        account.files += len(x)
        yield x, tuple(paths[part])
