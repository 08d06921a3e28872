"""BN statistics of a stream, believed as far as they are more than chance and more than its classes: the heart of ``auto``.

A batch's own statistics fit a new domain at once, but they are wrong where the batch is small, or holds few classes: then they take
away what tells the classes apart. Here the base says what is to be expected of samples (``isoform.runtime.learn.source``), and what
goes beyond that is the domain. All numbers are in the base's units; of one BN with c channels, Δ and K have 2c numbers, means and
squares, each divided by its spread between the base's training samples:

    E ← E + w (batch - E),     w = n / (N + n)                  moments of the stream so far, N samples, at most ``WINDOW``
    q ← q + w (mean prediction - q)                             its class distribution;   κ their concentration (``losses.py``)
    K = what the base saw of that class distribution,           λ = κ / (κ + ``GATE``) · clip(⟨Δ, K⟩ / ⟨K, K⟩, 0, 1)
    D = mean (Δ - λK)²                                          the shift, in units of how much one sample differs from another
    ν = κ B + (1 - κ) / N                                       what D is without any shift: classes that λK missed, and chance
    B = mean over classes of (mean of the class)²               what D is where there is one class
    moments to normalise by = base + max(0, 1 - ν / D) (Δ - λK)

The last line is the estimator of James and Stein (1961) in its positive part, one per BN: a mean of many numbers is best moved
towards what was known by the share of its square that chance explains. A single sample of a clean stream has D near 1, so nothing
moves; in fog D is 26, and it moves by nearly all of it. λ is a regression of what is seen on what the classes explain.

As classes that came in turn before a new domain come in turn in it, κ is for a while at least what it was.
Samples that lie elsewhere than the stream begin a new one, at N = 0 or where a domain was left (``domains.py``).
Classes are matched by name (``Source.with_labels``); B is ``BETWEEN`` as far as q is of classes that the base does not have.
Sources: Schneider et al. 2020 (source statistics as a prior); James and Stein 1961; Efron and Morris 1973 (empirical Bayes).
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.adapt.losses import concentration
from isoform.runtime.adapt.methods.domains import Domains
from isoform.runtime.arrays import Array
from isoform.runtime.learn.learner import STATISTICS, Learner, Moments, Pass, Point, normalising
from isoform.runtime.learn.source import Source, relative

__all__ = ["Shrinkage"]

WINDOW = 256.0
"""Samples that the stream so far counts as, at most: what bounds how long a domain is remembered."""
BETWEEN = 0.5
"""B where classes are not known."""
GATE = 0.05
LEAST = 0.02
"""Of the base's variance, a channel's variance is at least so much."""


class Shrinkage:
    """Moments of a stream.

    Args:
        learner: Runs the network.
        source: Facts about the base that the signature began from.
        given: BN statistics to lean on, shape (2, N).
        classes: How many the logits layer has.
    """

    def __init__(self, learner: Learner, source: Source, given: Array, *, classes: int) -> None:
        self._learner, self._source, self._given = learner, source, given.astype(np.float32)
        self._classes = source.classes / source.spread if len(source.classes) == classes else None
        self._known = source.classes.any(axis=(1, 2))
        self._domains = Domains()
        self._between = dict[int, float]()
        self._variance = np.maximum(self._given[1].astype(np.float64), 1e-12)
        self._even = np.full(classes, 1 / classes), 1 / classes
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self.count = 0.0
        """N, samples that the stream so far counts as."""
        self.prior: Array
        """q, shape (C,)."""
        self.itself: float
        """S, of the same predictions: what share of them is right, if they are as certain as they should be."""
        self.prior, self.itself = self._even
        self.kappa = 1.0
        """κ of the stream."""
        self.shift = 0.0
        """D of the first BN, after the last batch."""
        self.belief = 0.0
        """Mean of max(0, 1 - ν / D) over the BNs, after the last batch: 0 where nothing has shifted, towards 1 where it is certain."""
        self.jumped = False
        """Whether the last batch began a new stream."""
        self._moments = np.zeros((2, self._given.shape[1]))
        self._habit = 0.0
        self._domains.reset()

    def settle(self, point: Point, x: Array, p: Array) -> Pass:
        """Take in the first batch of a domain again, with what it was predicted to be then; as ``update``."""
        self.count, (self.prior, self.itself) = 0.0, self._even
        jumped, result = self.jumped, self.update(point, x, p)
        self.jumped = jumped
        return result

    def update(self, point: Point, x: Array, p: Array) -> Pass:
        """Take in a batch.

        Args:
            point: The signature's numbers; its BN statistics do not count.
            x: Samples, shape (n, channels, height, width), float32, n at least 1.
            p: Probabilities that were found for them, or for some of them, shape (m, C).

        Returns:
            The statistics to normalise by, and the batch's logits with them.
        """
        n, beliefs = len(x), list[float]()
        self.jumped = False
        before = self.prior, self.itself

        def share() -> float:
            w = n / (self.count + n)
            seen = len(p) * (self.count + n) / n  # predictions that q stands for
            self.prior = self.prior + w * (p.mean(axis=0) - self.prior)
            self.itself += w * (float((p**2).sum(axis=1).mean()) - self.itself)
            found = concentration(self.prior, self.itself, seen)
            self.kappa = max(found, self._habit * (1 - self.count / WINDOW))
            return w

        kappa, w = self.kappa, share()

        def chosen(place: slice, found: Moments) -> tuple[Array, Array]:
            nonlocal w
            rows = relative(found, self._given[1, place])
            rows[1] -= 1
            batch = rows.mean(axis=1, dtype=np.float64)
            spread = self._source.spread[:, place].astype(np.float64)
            if place.start == 0:
                begun = self._domains.judge(rows, spread, self._moments, count=self.count, kappa=kappa)
                if begun is not None:
                    self.jumped, self._habit = True, kappa
                    self.count, (self.prior, self.itself) = begun.count, before
                    self._moments[:] = begun.moments
                    w = share()
            self._moments[:, place] += w * (batch - self._moments[:, place])
            shift, belief = self._beyond_chance(self._moments[:, place] / spread, place, n)
            shift *= spread
            beliefs.append(belief)
            mean = shift[0] * np.sqrt(self._variance[place])
            variance = self._variance[place] * (1 + shift[1]) - mean**2
            return mean, np.maximum(variance, LEAST * self._variance[place])

        result = normalising(self._learner).normalised(point.with_parts({STATISTICS: self._given}), x, chosen)
        self.count, self.belief = min(WINDOW, self.count + n), float(np.mean(beliefs))
        return result

    def _beyond_chance(self, delta: Array, place: slice, n: int) -> tuple[Array, float]:
        """max(0, 1 - ν/D) (Δ - λK), shape (2, c), and its first factor."""
        kappa, between = self.kappa, BETWEEN
        if self._classes is not None and kappa > 0:
            classes = self._classes[:, :, place]
            if place.start not in self._between:
                self._between[place.start] = float((classes[self._known] ** 2).mean()) if self._known.any() else BETWEEN
            known = float(self.prior[self._known].sum())
            between = known * self._between[place.start] + (1 - known) * BETWEEN
            explained = np.tensordot(self.prior.astype(np.float32), classes, axes=1).astype(np.float64)
            size = float((explained**2).sum())
            share = min(1.0, max(0.0, float((delta * explained).sum()) / size)) if size > 0 else 0.0
            delta = delta - kappa / (kappa + GATE) * share * explained
        shift = float((delta**2).mean())
        if place.start == 0:
            self.shift = shift
        doubt = between * kappa + (1 - kappa) / (self.count + n)
        belief = max(0.0, 1 - doubt / shift) if shift > 0 else 0.0
        return belief * delta, belief
