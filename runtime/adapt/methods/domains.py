"""Change detection: when a stream leaves its domain, detected from one batch or sample by sample.

A domain is described by the moments of the first BN layer, divided by their spread over the base's training samples; the base's own
domain is the origin. ``gap`` is the mean squared difference of two such moments. N is the number of samples in the stream so far, κ
their concentration.

A batch of n ≥ ``ENOUGH`` samples starts a new stream if its distance from the stream exceeds chance, and most of the distance to
the base:

    gap(batch, stream) > ``CHANCE`` (1/n + 1/N) + ``SPREAD`` + ``CLASSES`` κ    and    > ``FAR`` max(gap(batch, base), gap(stream, base))

Smaller batches are collected until there are ``ENOUGH`` samples, then tested in the same way. That detects new domains. A return
to a known domain k, the base's or an earlier one of the stream, needs no collecting: it is a choice between two means, for which
the test with the shortest average delay at a given rate of false alarms is Page's cumulative sum of the log likelihood ratio (CUSUM),

    g_k ← max(0, g_k + n (gap(batch, stream) - s/N - gap(batch, k)) / s)             returned if g_k > ``RETURNED``

with s the mean gap between one sample and the stream, at least 1. Averaging over the values of a moment, instead of summing,
treats all channels as one: they are correlated, and this is the conservative choice. s/N accounts for the stream's own uncertainty.
``RETURNED`` is 2 ln(20,000): one false alarm in 20,000.

Sources: Page 1954, "Continuous inspection schemes"; Lorden 1971 (its optimality).
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["ENOUGH", "Domains", "Known"]

ENOUGH = 8  # fewer samples can be outliers without a new domain
"""Minimum number of samples that can start a new domain."""
CHANCE = 4.0
SPREAD = 1.0
CLASSES = 4.0  # if classes come one after another (large κ), a distant batch may be just another class
FAR = 0.8
RETURNED = 20.0
LIKELY = 4.0
"""Maximum gap, in units of a remembered domain's own mean gap, for a return to it."""
REMEMBERED = 4
"""Maximum number of remembered domains, besides the base's."""
APART = 1.0
"""Minimum gap of two different domains."""
RESUMED = 32.0
"""Maximum number of samples that a remembered domain counts as after a return."""
STEADY = 64.0
"""Maximum number of samples in the running mean s."""


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """A domain: moments of all BN layers, and the number of samples that they represent."""

    moments: Array
    """Shape (2, N), as in ``Shrinkage``."""
    count: float
    first: Array
    """Moments of the first BN layer in spreads, shape (2, c)."""
    scatter: float = 1.0
    """s."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    """A small batch, and the stream's state before it."""

    samples: int
    mean: Array
    stream: Array
    count: float


class Domains:
    """Change detector for one stream."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the stream, and all domains but the base's."""
        self._known: list[Known] = []
        self._settle()

    def _settle(self) -> None:
        self._recent = collections.deque[_Step]()
        self._evidence = np.zeros(1 + len(self._known))
        self._scatter = 1.0

    def judge(self, rows: Array, spread: Array, moments: Array, *, count: float, kappa: float) -> Known | None:
        """Decide whether a batch still belongs to the stream.

        Args:
            rows: Moments of the first BN layer per sample, shape (2, n, c), float64, not divided by the spread.
            spread: Spread over the base's training samples, shape (2, c).
            moments: Moments of the stream so far, of all BN layers in order, shape (2, N).
            count: N.
            kappa: κ.

        Returns:
            None if it does; else the domain that the new stream starts in: a remembered one, or an empty one.
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
        """Return the known domain that recent samples are from, if the evidence suffices."""
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
        """Return whether the last ``ENOUGH`` samples together differ from the stream before them."""
        self._recent.append(_Step(n, mean, stream, count))
        while sum(step.samples for step in self._recent) - self._recent[0].samples >= ENOUGH:
            self._recent.popleft()
        total, first = sum(step.samples for step in self._recent), self._recent[0]
        if total < ENOUGH:
            return False
        together = np.average(
            [step.mean for step in self._recent], axis=0, weights=[step.samples for step in self._recent]
        )
        # against the stream as it was before these samples, which have moved it since
        return _left(together, total, first.stream, first.count, kappa, max(1.0, self._scatter))

    def _remember(self, left: Known, count: float) -> None:
        """Remember the domain that was left, if it had enough samples and is not the base's; it replaces a close one."""
        if count < ENOUGH or _gap(left.first, np.zeros_like(left.first)) < APART:
            return
        others = [entry for entry in self._known if _gap(entry.first, left.first) >= APART]
        self._known = [*others, left][-REMEMBERED:]


def _gap(a: Array, b: Array) -> float:
    return float(((a - b) ** 2).mean())


def _left(mean: Array, n: int, stream: Array, count: float, kappa: float, s: float) -> bool:
    """Return whether n samples are of another domain than the stream, by the two conditions of the module docstring."""
    if count < ENOUGH:  # too short to be left
        return False
    gap, origin = _gap(mean, stream), np.zeros_like(mean)
    chance = CHANCE * s * (1 / n + 1 / count) + SPREAD + CLASSES * kappa
    return gap > chance and gap > FAR * max(_gap(mean, origin), _gap(stream, origin))
