"""Folds of cross-validation: disjoint sets of samples that are held out in turn.

All randomness comes from a numpy generator that the caller seeds, so the same seed gives the same folds.
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["stratified_folds"]


def stratified_folds(labels: Array, count: int, rng: np.random.Generator) -> list[Array]:
    """Partition the rows into folds of random rows, with each class's rows spread as evenly as possible.

    Args:
        labels: Class indices, shape (n,).
        count: Number of folds, 1 to n.
        rng: Generator of the order.
    """
    # rows ordered by class, then dealt out in turn: every fold gets a class's samples as evenly as possible
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    return [np.sort(order[first::count]) for first in range(count)]
