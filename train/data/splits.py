"""Hold out a part of a data set: samples of every class, or whole groups, such as recordings, persons or days.

Windows of one recording are alike, so with some of them in training the others are no test of what a network does with new ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import DataError
from isoform.runtime.samples.account import plural
from isoform.train.data.pictures import Pictures
from isoform.train.data.recipe import DataRecipe
from isoform.train.data.samples import Split

__all__ = ["hold_out", "rows_of"]

TRIES = 200
"""Random orders of groups that are tried; the one whose share is closest to the wanted one is taken."""


def hold_out(
    half: Split, classes: Sequence[str], fraction: float, recipe: DataRecipe, *, what: str
) -> tuple[Split, Split]:
    """Hold out a share, the same one for the same seed; return the rest, and what is held out.

    Args:
        half: The samples.
        classes: Class names.
        fraction: The share, above 0 and below 1.
        recipe: Says what is held out, and the seed.
        what: What it is held out for, for messages.

    Raises:
        DataError: If a class has too few samples, or groups, to be in both halves; or groups are wanted but not known.
    """
    if recipe.split == "groups" and half.groups is None:
        raise DataError(
            "data.split is 'groups', but the data name none; add a column or an array of groups, or set data.split to 'samples'"
        )
    if recipe.split == "samples" or half.groups is None:
        held = _samples(half.labels, classes, fraction, recipe.split_seed, what)
    else:
        held = _groups(half, classes, fraction, recipe.split_seed, what)
    return rows_of(half, ~held), rows_of(half, held)


def rows_of(half: Split, mask: Array) -> Split:
    """Return the samples that a mask selects, shape (n,) of bool."""
    groups = None if half.groups is None else half.groups[mask]
    images = half.images.of(mask) if isinstance(half.images, Pictures) else np.ascontiguousarray(half.images[mask])
    return Split(images=images, labels=half.labels[mask], groups=groups, unit=half.unit)


def _samples(labels: Array, classes: Sequence[str], fraction: float, seed: int, what: str) -> Array:
    """Choose a share of every class."""
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for label, name in enumerate(classes):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = round(fraction * len(members))
        if not 0 < count < len(members):
            raise DataError(
                f"class {name!r} has {plural(len(members), 'sample')}, too few to hold out {fraction:.0%} for {what} and train on the rest"
            )
        chosen.extend(members[:count])
    held = np.zeros(len(labels), dtype=bool)
    held[chosen] = True
    return held


def _groups(half: Split, classes: Sequence[str], fraction: float, seed: int, what: str) -> Array:
    """Choose whole groups, so that every class is in both halves and the share is as near as groups allow."""
    assert half.groups is not None
    names, members = np.unique(half.groups, return_inverse=True)
    counts = np.zeros((len(names), len(classes)), dtype=np.int64)
    np.add.at(counts, (members, half.labels), 1)
    for place, name in enumerate(classes):
        if (counts[:, place] > 0).sum() < 2:
            raise DataError(
                f"class {name!r} has samples of one {half.unit} only, which cannot be held out for {what} and trained on; add another, or set "
                "data.split to 'samples'"
            )
    rng, total = np.random.default_rng(seed), len(half.labels)
    best, found = np.inf, None
    for _ in range(TRIES):
        order = rng.permutation(len(names))
        sums = counts[order].cumsum(axis=0)
        able = (sums > 0).all(axis=1) & (sums < counts.sum(axis=0)).all(axis=1)
        gaps = np.where(able, np.abs(sums.sum(axis=1) / total - fraction), np.inf)
        first = int(gaps.argmin())
        if gaps[first] < best:
            best, found = float(gaps[first]), order[: first + 1]
    if found is None:
        raise DataError(
            f"no choice of {half.unit}s for {what} leaves every class in both halves; add {half.unit}s, or set data.split to 'samples'"
        )
    held: Array = np.isin(members, found)
    return held
