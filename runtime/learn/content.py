"""Which samples carry content: a covered lens, a dead sensor, pure noise and a frame that repeats the one before do not.

Neighbouring pixels of a picture are alike, and so are neighbouring moments of a recording; those of independent noise are not,
whatever its strength. So the test does not look at contrast: fog and low light pass. With u a channel less its mean, P pixels and
M pairs of horizontal and vertical neighbours:

    r = (Σ_pairs uᵢ uⱼ / M) / (Σ uᵢ² / P)              correlation of neighbours
    z = r √M                                           normal with mean 0 and variance 1 for independent noise
    structure = max over channels of max(z₁ - ¼ √M₁,  z₂)

z₁ is of the channel as it is, z₂ of the means of its 2×2 blocks (of pairs, where a sample has one row). Noise that was resized by a
triangle filter, as ``isoform.runtime.samples.images`` does, has neighbours with a correlation of ¼; this is taken off z₁, and z₂ is nearly
free of it. A constant sample has structure -∞.

A sample carries content if its structure is at least ``CHANCE``, four standard deviations, which one frame of noise in 30,000 reaches.
What the base was trained on is content as well, whatever it looks like (a class "nothing there", letters of DNA): ``isoform compile``
records the structure that all but ``RARE`` of every class's training samples reach, and the smaller number counts.

Sources: von Neumann 1941 (ratio of mean square differences to variance); Moran 1950 (its form on a grid).
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from isoform.runtime.spec import Array

__all__ = ["CHANCE", "Content", "least_structure", "structure"]

CHANCE = 4.0
RESIZED = 0.25
HUGE = 1e15
"""Samples with numbers beyond this, or all below its inverse, are scaled first: their products would leave float32."""
RARE = 0.05
CHUNK = 256
"""Samples that are looked at together, which bounds memory."""
FLAT = 1e-5
"""A channel that varies by less than this share of its largest value is constant: float32 arithmetic leaves such remainders."""
LEAST_PIXELS = 256
"""If no facts of training samples were recorded, noise is only told from content in samples of at least this size."""


def structure(x: Array) -> Array:
    """Structure of samples.

    Args:
        x: Shape (n, channels, height, width), float32, finite.

    Returns:
        Shape (n,), float32, in standard deviations; -∞ for constant samples.
    """
    n, channels, height, width = x.shape
    largest, smallest = x.max(axis=(2, 3)), x.min(axis=(2, 3))
    size = np.maximum(largest, -smallest)
    varies = largest / 2 - smallest / 2 > FLAT * size  # halves: 3e38 less -3e38 would overflow
    if size.max(initial=0) > HUGE or size.min(initial=HUGE) < 1 / HUGE:
        x = x / np.maximum(size, np.float32(1e-37))[:, :, None, None]
    fine = _likeness(x.reshape(n * channels, height, width)) - RESIZED * math.sqrt(_pairs(height, width))
    rows, columns = min(2, height), min(2, width)
    blocks = x[:, :, : height // rows * rows, : width // columns * columns]
    blocks = blocks if columns == 1 else blocks[..., ::2] + blocks[..., 1::2]
    blocks = blocks if rows == 1 else blocks[:, :, ::2] + blocks[:, :, 1::2]
    coarse = _likeness(blocks.reshape(n * channels, height // rows, width // columns))
    found: Array = np.where(varies, np.maximum(fine, coarse).reshape(n, channels), -np.inf).max(axis=1)
    return found


def _likeness(u: Array) -> Array:
    """z of every channel, shape (n,). The last pixel of a row and the first of the next count as neighbours: one product instead of rows."""
    n, height, width = u.shape
    u = u.reshape(n, height * width)
    u = u - u.mean(axis=1, keepdims=True)
    alike = np.einsum("np,np->n", u[:, 1:], u[:, :-1])
    if min(height, width) > 1:
        alike += np.einsum("np,np->n", u[:, width:], u[:, :-width])
    square = np.maximum(np.einsum("np,np->n", u, u), np.float32(1e-37))
    result: Array = alike / square * np.float32(height * width / math.sqrt(max(1, _pairs(height, width))))
    return result


def _pairs(height: int, width: int) -> int:
    """M."""
    return height * width - 1 + ((height - 1) * width if width > 1 else 0)


def least_structure(x: Array, labels: Array) -> float:
    """What all but ``RARE`` of every class's training samples reach.

    Args:
        x: Training samples, as for ``structure``.
        labels: Indices of classes, shape (n,).
    """
    found = structure(x)
    return min(float(np.quantile(found[labels == label], RARE, method="lower")) for label in np.unique(labels))


class Content:
    """Tells which samples of a stream carry content.

    Args:
        least: ``least_structure`` of the base's training samples; None if it was not recorded.
        pixels: Height times width of a sample.
    """

    def __init__(self, least: float | None, *, pixels: int) -> None:
        if least is None:
            least = CHANCE if pixels >= LEAST_PIXELS else float(np.finfo(np.float32).min) if pixels > 1 else -math.inf
        self._least = min(CHANCE, least)
        self._last: int | None = None

    def __call__(self, x: Array) -> Array:
        """Judge the next samples: shape (n,), bool. A sample that repeats one of its batch, or the last one before it, tells nothing new."""
        found = [structure(x[first : first + CHUNK]) for first in range(0, len(x), CHUNK)]
        result: Array = np.concatenate(found) >= self._least
        sums = [zlib.crc32(sample) for sample in np.ascontiguousarray(x)]
        seen = set() if self._last is None else {self._last}
        for row, checksum in enumerate(sums):
            result[row] &= checksum not in seen
            seen.add(checksum)
        if result.any():
            self._last = sums[int(np.flatnonzero(result)[-1])]
        return result

    def forget(self) -> None:
        """Forget the last sample's checksum; nothing else is remembered."""
        self._last = None
