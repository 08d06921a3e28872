"""Labelled samples for learning: class-balanced batches, folds that keep the classes' shares, moves of a few pixels.

Everything is drawn from a numpy generator that the caller seeds, so the same seed gives the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["balanced_batches", "class_shares", "folds", "moved", "spaced"]

REACH = 32
"""Samples are moved by up to one ``REACH``-th of their height and width: one pixel for images of 32."""


def balanced_batches(labels: Array, batch: int, rng: np.random.Generator) -> Iterator[Array]:
    """Endless batches of row indices in which the classes present take turns, and the samples of a class within it.

    Args:
        labels: Indices of classes, shape (n,), n at least 1.
        batch: Rows per batch.
        rng: Where the order comes from.
    """
    rows = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    turns: list[int] = []
    waiting: dict[int, list[int]] = {label: [] for label in rows}
    while True:
        chosen: list[int] = []
        while len(chosen) < batch:
            turns = turns or rng.permutation(list(rows)).tolist()
            label = turns.pop()
            waiting[label] = waiting[label] or rng.permutation(rows[label]).tolist()
            chosen.append(waiting[label].pop())
        yield np.array(chosen)


def class_shares(labels: Array) -> Array:
    """Shares of samples with which every class present counts alike: shape (n,), sum 1."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shares: Array = 1 / (counts[inverse] * len(counts))
    return shares


def folds(labels: Array, count: int, rng: np.random.Generator) -> list[Array]:
    """Disjoint sets of rows that together are all, classes spread over them as evenly as they can be.

    Args:
        labels: Indices of classes, shape (n,).
        count: How many sets, 1 to n.
        rng: Where the order comes from.
    """
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    return [np.sort(order[first::count]) for first in range(count)]


def spaced(x: Array, count: int) -> Array:
    """At most so many samples, or labels, evenly spaced over those that there are."""
    if len(x) <= count:
        return x
    return np.ascontiguousarray(x[np.linspace(0, len(x) - 1, count).astype(np.int64)])


def moved(x: Array, rng: np.random.Generator) -> Array:
    """Every sample moved by a few pixels, edges repeated: one that a user did not give, but could have.

    Args:
        x: Samples, shape (n, channels, height, width) or (n, channels, steps); others stay as they are.
        rng: Where the moves come from.

    Returns:
        The same shape; a fresh array, or ``x`` itself where samples are too small to be moved.
    """
    if x.ndim == 3:
        return moved(x[:, :, None], rng)[:, :, 0]
    if x.ndim != 4:
        return x
    height, width = x.shape[2:]
    down, right = height // REACH, width // REACH
    if down == right == 0:
        return x
    padded = np.pad(x, ((0, 0), (0, 0), (down, down), (right, right)), mode="edge")
    rows, columns = rng.integers(0, 2 * down + 1, len(x)), rng.integers(0, 2 * right + 1, len(x))
    return np.stack([p[:, r : r + height, c : c + width] for p, r, c in zip(padded, rows, columns, strict=True)])
