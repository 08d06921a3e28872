"""The tables of a recipe that say what data there is: one for all samples, and one per task. Every kind has them."""

from __future__ import annotations

import dataclasses
from typing import Literal

from isoform.train.fields import between

__all__ = ["DataRecipe", "TaskRecipe"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRecipe:
    """One task: a data set seen through a domain."""

    data: Literal["digits", "idx", "usps", "folder"]
    """Where samples come from: embedded digits, IDX files (MNIST and kin), USPS files, or a folder of images."""
    path: str = ""
    """Folder of the files, below ``--data``; empty for that folder itself. ``digits`` needs none."""
    domain: str = "plain"
    """A transform of ``isoform.train.data.domains``."""
    limit: int = 0
    """At most so many training samples, drawn evenly over the classes; 0 for all."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        between(self, "limit", 0, 1e9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """What all samples are made into."""

    input_shape: tuple[int, int, int] = (1, 32, 32)
    """Channels, height, width; images of another size are resized."""
    test_fraction: float = 0.25
    """Share kept for testing, stratified by class, where a data set has no test split of its own."""
    split_seed: int = 0
    """Which samples those are; apart from ``seed``, so that seeds are compared on the same test samples."""
    shift: int = 2
    """Augmentation: each batch is moved by up to so many pixels both ways, edges repeated."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        between(self, "test_fraction", 0.01, 0.99)
        between(self, "shift", 0, 64)
        between(self, "split_seed", 0, 2**31)
