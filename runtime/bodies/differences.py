"""Gradients without a backward pass: differences of the loss along a few directions, which never change.

For a part w of d numbers and root mean square r, with orthonormal random directions u_1 … u_m, m = min(8, d), and s = 0.02 · max(r, 10⁻³):

    g = Σ_i (L(w + s √d u_i) - L(w - s √d u_i)) / (2 s √d) · u_i

So a fit stays in a subspace of m dimensions through its start. (Li et al. 2018, "Measuring the intrinsic dimension of objective landscapes";
forward passes alone adapt a network in Niu et al. 2024, "Test-time model adaptation with only forward passes", by CMA-ES.)
With 8 directions a step takes 16 forward passes per part. 32 directions learn a little more in four times the time, and new directions
in every step learn less (docs/log.md).
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Collection

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.learn.learner import Point

__all__ = ["DIRECTIONS", "differences"]

DIRECTIONS = 8
STEP = 0.02
"""Length of a step, relative to the root mean square of the part."""
SMALLEST = 1e-3
"""Root mean square of parts that are smaller, such as changes that begin at 0."""


def differences(point: Point, names: Collection[str], loss: Callable[[Point], float]) -> dict[str, Array]:
    """Estimate gradients.

    Args:
        point: Where.
        names: The parts.
        loss: Point → loss; called twice per part and direction.

    Returns:
        Part → gradient, of its shape, float64.
    """
    found = {}
    for name in names:
        given = point.parts[name].astype(np.float64)
        size = STEP * max(float(np.sqrt(np.mean(given**2))), SMALLEST) * np.sqrt(given.size)
        total = np.zeros(given.size)
        for direction in _directions(name, given.size):
            change = (size * direction).reshape(given.shape)
            ends = [loss(point.with_parts({name: given + sign * change})) for sign in (1, -1)]
            total += (ends[0] - ends[1]) / (2 * size) * direction
        found[name] = total.reshape(given.shape)
    return found


@functools.lru_cache(maxsize=16)
def _directions(name: str, size: int) -> Array:
    """Return orthonormal directions of a part, shape (m, size); the same on every call and machine, to rounding."""
    # by the part's name: parts of the same size would otherwise go along with one another
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    rows: Array = np.linalg.qr(rng.normal(size=(size, min(DIRECTIONS, size))))[0].T
    return rows
