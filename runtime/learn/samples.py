"""Sampling for learning: class-balanced batches, random shifts by a few pixels.

All randomness comes from a numpy generator that the caller seeds, so the same seed gives the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["balanced_batches", "class_shares", "moved", "spaced", "spaced_rows"]

REACH = 32
"""Samples are shifted by at most 1/``REACH`` of their height and width: one pixel for images of 32×32."""


def balanced_batches(labels: Array, batch: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield endless batches of row indices that cycle over the classes present, and over the samples of each class.

    Args:
        labels: Class indices, shape (n,), n at least 1.
        batch: Rows per batch.
        rng: Generator of the order.
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
    """Return sample weights that give every class present the same total: shape (n,), sum 1."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shares: Array = 1 / (counts[inverse] * len(counts))
    return shares


def spaced(x: Array, count: int) -> Array:
    """Return at most ``count`` samples, or labels, evenly spaced over all."""
    return x if len(x) <= count else np.ascontiguousarray(x[spaced_rows(len(x), count)])


def spaced_rows(total: int, count: int) -> Array:
    """Return the indices of at most ``count`` of ``total`` samples, evenly spaced."""
    return np.linspace(0, total - 1, min(total, count)).astype(np.int64)


def moved(x: Array, rng: np.random.Generator) -> Array:
    """Augment: shift every sample by a few random pixels, with edges repeated.

    Args:
        x: Samples, shape (n, channels, height, width) or (n, channels, steps); other samples are not changed.
        rng: Generator of the shifts.

    Returns:
        The same shape; a fresh array, or ``x`` itself if samples are too small to be shifted.
    """
    if x.ndim == 3:
        return moved(x[:, :, None], rng)[:, :, 0]
    if x.ndim != 4:
        return x
    height, width = x.shape[2:]
    down, right = height // REACH, width // REACH
    if down == right == 0:
        return x
    # edges, because 0 may be far from the background's value
    padded = np.pad(x, ((0, 0), (0, 0), (down, down), (right, right)), mode="edge")
    rows, columns = rng.integers(0, 2 * down + 1, len(x)), rng.integers(0, 2 * right + 1, len(x))
    return np.stack([p[:, r : r + height, c : c + width] for p, r, c in zip(padded, rows, columns, strict=True)])
