"""Data sets in memory: two halves of images and labels."""

from __future__ import annotations

import dataclasses

from isoform.runtime.arrays import Array, digest_of
from isoform.runtime.samples.account import Account

__all__ = ["Dataset", "Split"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Images and labels of one half of a data set."""

    images: Array
    """Shape (n, …) of the network's input, float32; images (n, channels, height, width) in [0, 1]."""
    labels: Array
    """Shape (n,), int64, indices into the data set's ``classes``."""
    groups: Array | None = None
    """Shape (n,), the name of the recording, person or day that each sample is of; None if they are not known."""
    unit: str = "group"
    """What a group is, in the singular."""


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
        """Compute the sha256 over every pixel and label, 64 hex digits; equal digests mean equal data."""
        halves = [half for half in (self.train, self.test, self.validation) if half is not None]
        return digest_of([part.tobytes() for half in halves for part in (half.images, half.labels)])
