"""How alike samples are that follow each other: a stream in which one class comes after the other says less than its length suggests.

Two measurements, which both are about 0 and 1 for a stream in random order:

    likeness    κ of neighbours (``losses.py``): U is the similarity of predictions in one batch, or of a single sample and the one
                before it; a mean over ``REMEMBERED`` samples
    factor      φ, by which the variance of a mean exceeds that of as many independent samples. By the method of batch means:
                with b_j the mean of block j of n_j ≥ ``BLOCK`` samples, in the first BN layer, and s_j² the scatter in it,
                φ = mean of |b_j - b_j-1|² / (s_j²/n_j + s_j-1²/n_j-1)           over the last ``BLOCKS``, at least 1;
                a difference beyond 2 B, that of two classes, is one of domains, and left out

The κ of a long stream is blind to runs: of 256 samples of 13 classes, one after the other, it is near 0 where predictions are
uncertain. φ needs no predictions, but it does not see runs that are much longer than a block; κ of the stream sees those.

Sources: Conway 1963 and Schmeiser 1982 (batch means); von Neumann 1941 (mean square successive difference).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["Runs"]

REMEMBERED = 64.0
"""Maximum number of samples in the running means of U and S."""
BLOCK = 32
"""Minimum number of samples in a block."""
BLOCKS = 8
"""Maximum number of differences in the running mean of φ."""


@dataclasses.dataclass(frozen=True)
class _Alike:
    """Running means of U and S, over so many samples."""

    u: float = 0.0
    s: float = 0.0
    samples: float = 0.0
    last: Array | None = None
    """Mean prediction of the last batch."""

    def with_batch(self, p: Array) -> _Alike:
        n, mean, s = len(p), p.mean(axis=0), float((p**2).sum(axis=1).mean())
        if n > 1:
            u = (n * float((mean**2).sum()) - s) / (n - 1)
        elif self.last is not None:
            u = float(mean @ self.last)
        else:
            return dataclasses.replace(self, last=mean)
        samples = min(REMEMBERED, self.samples + n)
        w = min(1.0, n / samples)
        return _Alike(self.u + w * (u - self.u), self.s + w * (s - self.s), samples, mean)


class Runs:
    """The measurements of one stream."""

    def __init__(self) -> None:
        self._before = self._alike = _Alike()
        self._factor, self._blocks = 1.0, 0
        self.moved()

    def moved(self) -> None:
        """Begin another domain: its blocks are not compared with the last one's, but classes go on to come as they did."""
        self._block: list[Array] = []
        self._previous: tuple[Array, float] | None = None

    @property
    def likeness(self) -> float:
        """κ of neighbours, 0 to 1; 0 before two samples."""
        classes = 0 if self._alike.last is None else len(self._alike.last)
        most = classes * self._alike.s - 1
        return min(1.0, max(0.0, (classes * self._alike.u - 1) / most)) if most > 1e-9 else 0.0

    @property
    def factor(self) -> float:
        """φ, at least 1; as if there had been one block more, of independent samples."""
        return max(1.0, (self._blocks * self._factor + 1) / (self._blocks + 1))

    def predicted(self, p: Array, *, again: bool = False) -> None:
        """Take note of a batch's predictions.

        Args:
            p: Probabilities, shape (n, classes), n at least 1.
            again: Whether these are better ones for the same samples as at the last call.
        """
        if not again:
            self._before = self._alike
        self._alike = self._before.with_batch(p)

    def met(self, rows: Array, between: float) -> None:
        """Take note of a batch.

        Args:
            rows: Moments of its samples in the first BN layer, in spreads, shape (2, n, channels).
            between: B of that layer (``shrinkage.py``).
        """
        self._block.append(rows)
        if sum(part.shape[1] for part in self._block) < BLOCK:
            return
        block = np.concatenate(self._block, axis=1)
        mean = block.mean(axis=1)
        variance = max(1e-9, float(((block - mean[:, None]) ** 2).mean())) / block.shape[1]
        if self._previous is not None:
            apart, chance = float(((mean - self._previous[0]) ** 2).mean()), variance + self._previous[1]
            if apart <= 2 * between + chance:
                self._blocks = min(BLOCKS, self._blocks + 1)
                self._factor += (apart / chance - self._factor) / self._blocks
        self._block, self._previous = [], (mean, variance)
