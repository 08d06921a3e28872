"""Data sets: two halves of images and labels."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from isoform.runtime.arrays import Array, digest_of
from isoform.runtime.learn.samples import spaced
from isoform.runtime.samples.account import Account
from isoform.train.data.pictures import Images, Pictures, few

__all__ = ["Dataset", "Loaded", "Split", "loaded", "loaded_count"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Images and labels of one half of a data set."""

    images: Images
    """Shape (n, …) of the network's input, float32; images (n, channels, height, width) in [0, 1]. An array, or decoded when asked for."""
    labels: Array
    """Shape (n,), int64, indices into the data set's ``classes``."""
    groups: Array | None = None
    """Shape (n,), the name of the recording, person or day that each sample is of; None if they are not known."""
    unit: str = "group"
    """What a group is, in the singular."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded(Split):
    """A half, or a part of it, whose images are in memory."""

    images: Array
    """As in ``Split``, an array."""


def loaded(half: Split, *, most: int) -> Loaded:
    """Return a half in memory; of images on disk at most so many bytes, evenly spaced over all, with groups left out."""
    if not isinstance(half.images, Pictures):
        return Loaded(images=half.images, labels=half.labels, groups=half.groups, unit=half.unit)
    count = loaded_count(half, most=most)
    return Loaded(images=few(half.images, count), labels=spaced(half.labels, count))


def loaded_count(half: Split, *, most: int) -> int:
    """Return how many samples ``loaded`` returns."""
    if not isinstance(half.images, Pictures):
        return len(half.labels)
    return min(len(half.labels), max(1, most // (4 * math.prod(half.images.shape[1:]))))


def _bytes(images: Array) -> bytes | memoryview:
    """Return an array's bytes, without a copy: it may be larger than the memory."""
    return np.ascontiguousarray(images).data.cast("B") if images.size else b""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set with its halves. ``test`` may be None before ``load_task`` has split it."""

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    """Names of the labels."""
    validation: Split | None = None
    """Samples by which a run that is given them chooses its best state; None for most."""
    columns: tuple[str, ...] | None = None
    """Names of the channels of recordings, in order; None if none were read."""
    account: Account = dataclasses.field(default_factory=Account, compare=False)
    """Counts of the files that were read and left out."""

    def digest(self) -> str:
        """Compute the sha256 over every pixel and label, 64 hex digits; equal digests mean equal data.

        Images that stay on disk stand for themselves by the sha256 of their pixels.
        """
        halves = [half for half in (self.train, self.test, self.validation) if half is not None]
        return digest_of(
            part
            for half in halves
            for part in (
                half.images.summary.digest if isinstance(half.images, Pictures) else _bytes(half.images),
                half.labels.tobytes(),
            )
        )
