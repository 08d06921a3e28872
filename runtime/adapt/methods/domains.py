"""When a stream leaves its domain: noticed in one batch, or one sample at a time.

A domain is known by what its samples do to the first BN, in squared spreads between the base's training samples, whose own domain is
the origin. ``gap`` is the mean squared difference of two such moments. N samples make the stream so far, κ is their concentration.

A batch of n ≥ ``ENOUGH`` samples begins a new stream if it lies farther from the stream than chance explains, and than most of the way
to the base:

    gap(batch, stream) > ``CHANCE`` (1/n + 1/N) + ``SPREAD`` + ``CLASSES`` κ    and    > ``FAR`` max(gap(batch, base), gap(stream, base))

Fewer samples are collected until there are ``ENOUGH``, and the same is asked of them. That finds domains never seen before. Coming
back to a known one k, the base's or one that the stream was in, needs no collecting: it is a choice between two means, for which
the test that needs the fewest samples on average at a given rate of false alarms is Page's cumulative sum of the log likelihood ratio,

    g_k ← max(0, g_k + n (gap(batch, stream) - s/N - gap(batch, k)) / s)             returned if g_k > ``RETURNED``

with s the mean gap between one sample and the stream, at least 1. Dividing by the number of values in a moment, rather than summing over
them, treats all channels as one: they move together, and this is the cautious end. s/N is what the stream's own uncertainty adds.
``RETURNED`` is 2 ln of one false alarm in 20,000.

Sources: Page 1954, "Continuous inspection schemes"; Lorden 1971 (its optimality).
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["ENOUGH", "Domains", "Known"]

ENOUGH = 8
"""Fewer samples than this can be odd without a new domain."""
CHANCE = 4.0
SPREAD = 1.0
CLASSES = 4.0
"""The more the stream looks as if its classes came in turn, the more the batch may be just another class."""
FAR = 0.8
RETURNED = 20.0
LIKELY = 4.0
"""A remembered domain is only gone back to by samples within this many of its own mean gaps."""
REMEMBERED = 4
"""Domains that are remembered besides the base's."""
APART = 1.0
"""Gap from which two domains are two."""
RESUMED = 32.0
"""Samples that a remembered domain counts as when the stream comes back to it."""
STEADY = 64.0
"""Samples that s stands for, at most."""


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """Where a stream begins: moments of all BNs, and the samples that they stand for."""

    moments: Array
    """Shape (2, N), as ``Shrinkage`` keeps them."""
    count: float
    first: Array
    """The first BN's moments in spreads, shape (2, c)."""
    scatter: float = 1.0
    """s."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    """A small batch, and the stream before it."""

    samples: int
    mean: Array
    stream: Array
    count: float


class Domains:
    """Follows one stream."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the stream, and every domain but the base's."""
        self._known: list[Known] = []
        self._settle()

    def _settle(self) -> None:
        self._recent = collections.deque[_Step]()
        self._evidence = np.zeros(1 + len(self._known))
        self._scatter = 1.0

    def judge(self, rows: Array, spread: Array, moments: Array, *, count: float, kappa: float) -> Known | None:
        """Decide whether a batch still belongs to the stream.

        Args:
            rows: The first BN's moments of every sample, shape (2, n, c), float64, not divided by the spread.
            spread: Between the base's training samples, shape (2, c).
            moments: The stream's so far, of all BNs, shape (2, N); the first BN's come first.
            count: N.
            kappa: κ.

        Returns:
            None if it does; else where the new stream begins, which may have moments already.
        """
        n, channels = rows.shape[1:]
        stream, rows = moments[:, :channels] / spread, rows / spread[:, None]
        mean = rows.mean(axis=1)
        base = Known(np.zeros_like(moments), 0.0, np.zeros_like(stream))
        if n >= ENOUGH:
            self._recent.clear()
            found = base if _left(mean, n, stream, count, kappa, 1.0) else None
        else:
            found = self._returned(mean, n, stream, count, base)
            if found is None and self._gone(mean, n, stream, count, kappa):
                found = base
        if found is not None:
            self._remember(Known(moments.copy(), min(RESUMED, count), stream, max(1.0, self._scatter)), count)
            self._settle()
        elif count:
            apart = float(((rows - stream[:, None]) ** 2).mean())
            self._scatter += n / min(STEADY, count + n) * (apart - self._scatter)
        return found

    def _returned(self, mean: Array, n: int, stream: Array, count: float, base: Known) -> Known | None:
        """The known domain that the samples of late come from, rather than from the stream."""
        if not count:
            return None
        s, known = max(1.0, self._scatter), [base, *self._known]
        gaps = np.array([_gap(mean, entry.first) for entry in known])
        gains = n * (_gap(mean, stream) - s / count - gaps) / s
        self._evidence = np.maximum(0.0, self._evidence + gains)
        likely = [gap <= LIKELY * entry.scatter / n or entry is base for gap, entry in zip(gaps, known, strict=True)]
        best = int(np.argmax(np.where(likely, self._evidence, -1.0)))
        return known[best] if self._evidence[best] > RETURNED else None

    def _gone(self, mean: Array, n: int, stream: Array, count: float, kappa: float) -> bool:
        """Whether the last ``ENOUGH`` samples, taken together, left the stream as it was before them."""
        self._recent.append(_Step(n, mean, stream, count))
        while sum(step.samples for step in self._recent) - self._recent[0].samples >= ENOUGH:
            self._recent.popleft()
        total, first = sum(step.samples for step in self._recent), self._recent[0]
        if total < ENOUGH:
            return False
        together = np.average(
            [step.mean for step in self._recent], axis=0, weights=[step.samples for step in self._recent]
        )
        return _left(together, total, first.stream, first.count, kappa, max(1.0, self._scatter))

    def _remember(self, left: Known, count: float) -> None:
        """Keep the domain that was left, if enough samples of it were seen and it is not one that is known."""
        if count < ENOUGH or _gap(left.first, np.zeros_like(left.first)) < APART:
            return
        others = [entry for entry in self._known if _gap(entry.first, left.first) >= APART]
        self._known = [*others, left][-REMEMBERED:]


def _gap(a: Array, b: Array) -> float:
    return float(((a - b) ** 2).mean())


def _left(mean: Array, n: int, stream: Array, count: float, kappa: float, s: float) -> bool:
    """Whether n samples are of another domain than the stream: farther from it than chance, and than most of the way to the base."""
    if count < ENOUGH:
        return False
    gap, origin = _gap(mean, stream), np.zeros_like(mean)
    chance = CHANCE * s * (1 / n + 1 / count) + SPREAD + CLASSES * kappa
    return gap > chance and gap > FAR * max(_gap(mean, origin), _gap(stream, origin))
