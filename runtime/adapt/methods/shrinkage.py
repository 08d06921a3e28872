"""BN statistics of a stream, shrunk towards the base's as far as chance and the stream's classes explain the difference.

This is the core of ``auto``. A batch's own statistics fit a new domain at once, but are wrong if the batch is small or has few
classes: then they remove what distinguishes the classes. Here the base's source statistics (``isoform.runtime.learn.source``) give
the expected variation, and what exceeds it is attributed to the domain. All values are in the base's units. For one BN layer with c
channels, Δ and K have 2c values, means and squares, each divided by its spread over the base's training samples:

    E ← E + w (batch - E),     w = n / (N + n)                  moments of the stream so far, N samples, at most ``WINDOW``
    q ← q + w (mean prediction - q)                             its class distribution;   κ their concentration (``losses.py``)
    K = what the base saw of that class distribution,           λ = κ / (κ + ``GATE``) · clip(⟨Δ, K⟩ / ⟨K, K⟩, 0, 1)
    D = mean (Δ - λK)²                                          the shift, in units of how much one sample differs from another
    ν = κ B + (1 - κ) φ / N                                     what D is without any shift: classes that λK missed, and chance
    B = mean over classes of (mean of the class)²               what D is where there is one class
    φ                                                           by how much less than N samples say that come in runs (``runs.py``)

If the bundle has directions of BN statistics, ``directions.py`` says how much of Δ - λK is believed, given ν. Otherwise

    moments to normalise by = base + max(0, 1 - ν / D) (Δ - λK)

which is the positive-part estimator of James and Stein (1961), one per BN layer: a vector of many means is best shrunk towards
the prior by the share of its square that chance explains. A single sample of a clean stream has D near 1, so the statistics
hardly change; in fog D is 26, and they change almost completely. λ is a regression of Δ on what the classes explain.

If classes came one after another before a change of domain, they will do so after it, so κ keeps its old value as a minimum for a
while, or that of neighbours (``runs.py``) if it is larger. Samples far from the stream start a new one, at N = 0 or with the moments
of a known domain (``domains.py``).
Classes are matched by name (``Source.with_labels``); B is ``BETWEEN`` for the share of q on classes that the base does not have.
Sources: Schneider et al. 2020 (source statistics as a prior); James and Stein 1961; Efron and Morris 1973 (empirical Bayes).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isoform.runtime.adapt.losses import concentration
from isoform.runtime.adapt.methods.directions import LEAST, DirectedShift
from isoform.runtime.adapt.methods.domains import Domains
from isoform.runtime.adapt.methods.runs import Runs
from isoform.runtime.arrays import Array, softmax
from isoform.runtime.learn.learner import STATISTICS, Moments, Normalising, Pass, Point
from isoform.runtime.learn.samples import spaced
from isoform.runtime.learn.source import Source, relative

__all__ = ["Shrinkage"]

WINDOW = 256.0  # bounds how long a domain is remembered
"""Maximum of N, the effective number of samples in the stream."""
BETWEEN = 0.5
"""B for unknown classes."""
GATE = 0.05
"""κ at which the class correction λ has half its weight."""
# 64 gained 0.1 points, but a batch then cost more than four forward passes (docs/log.md, 2026-11-21)
ROWS, FULL = 48, 128
"""Maximum number of a batch's samples: once the stream has ``FULL``, and before."""
CLASS_ROWS = 32
"""Maximum number of these for estimating the class distribution."""
# with the old domain's statistics the predictions are poor, and so is the class distribution estimated from them
SETTLING = 3
"""Number of passes over the first batch of a domain."""
SETTLING_ROWS = 16
"""Minimum size of a batch that is passed more than once."""


class Shrinkage:
    """Moments of a stream, and the statistics derived from them.

    Args:
        learner: Runs the network.
        source: Source statistics of the base that the signature started from.
        given: BN statistics to shrink towards, shape (2, N).
        classes: Number of classes of the logits layer.
        rest: Whether to keep something of the shift that is not along the bundle's directions, if it has any.
    """

    def __init__(self, learner: Normalising, source: Source, given: Array, *, classes: int, rest: bool = True) -> None:
        self._learner, self._source, self._given = learner, source, given.astype(np.float32)
        directions = self._learner.directions
        self._directed = None if directions is None else DirectedShift(directions.rows, source.spread, rest=rest)
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
        """N, the effective number of samples so far."""
        self.prior: Array
        """q, shape (C,)."""
        self.itself: float
        """S of the same predictions: their expected accuracy, if they are calibrated."""
        self.prior, self.itself = self._even
        self.kappa = 1.0
        """κ of the stream."""
        self.shift = 0.0
        """D of the first BN layer, after the last batch."""
        self.belief = 0.0
        """Share of the shift that is believed, mean over the BN layers, after the last batch: 0 without a shift, near 1 for a certain one."""
        self.jumped = False
        """Whether the last batch started a new stream."""
        self._moments = np.zeros((2, self._given.shape[1]))
        self._habit = 0.0
        self._runs = Runs()
        self._domains.reset()

    @property
    def runs(self) -> float:
        """κ of the stream, or of neighbours if that is larger."""
        return max(self.kappa, self._runs.likeness)

    @property
    def coefficients(self) -> Array:
        """z, the coefficients of the bundle's directions, shape (D,); only of a bundle that has some."""
        assert self._directed is not None
        return self._directed.z

    def follow(self, point: Point, x: Array, predict: Callable[[Array], Array]) -> Pass:
        """Process some of a batch: ``update``, and again and again if it is a domain's first.

        Args:
            point: The signature's parameters; its BN statistics are ignored.
            x: The batch, shape (n, channels, height, width), float32, n at least 1.
            predict: Samples → logits, with the current signature.

        Returns:
            As ``update``.
        """
        rows, new = spaced(x, ROWS if self.count >= FULL else FULL), self.count == 0
        result = self.update(point, rows, softmax(predict(spaced(rows, CLASS_ROWS))))
        if new or self.jumped:
            for _ in range(SETTLING - 1 if len(rows) >= SETTLING_ROWS else 0):
                result = self.settle(point, rows, softmax(result.logits))
        return result

    def settle(self, point: Point, x: Array, p: Array) -> Pass:
        """Process the first batch of a domain again, with its improved predictions; as ``update``."""
        self.count, (self.prior, self.itself) = 0.0, self._even
        jumped, result = self.jumped, self.update(point, x, p, again=True)
        self.jumped = jumped
        return result

    def update(self, point: Point, x: Array, p: Array, *, again: bool = False) -> Pass:
        """Process a batch.

        Args:
            point: The signature's parameters; its BN statistics are ignored.
            x: Samples, shape (n, channels, height, width), float32, n at least 1.
            p: Predicted probabilities of the samples or of some of them, shape (m, C).
            again: Whether these are the samples of the last call.

        Returns:
            The statistics to normalise with, and the batch's logits with them.
        """
        n, beliefs, alike = len(x), list[float](), self._runs.likeness
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

        kappa, w = max(self.kappa, alike), share()
        self._runs.predicted(p, again=again)
        if self._directed is not None:
            self._directed.begin()

        def chosen(place: slice, found: Moments) -> tuple[Array, Array]:
            nonlocal w
            rows = relative(found, self._given[1, place])
            rows[1] -= 1  # s²/v is 1 on average for the base, whose place is the origin
            batch = rows.mean(axis=1, dtype=np.float64)
            spread = self._source.spread[:, place].astype(np.float64)
            # the first BN layer decides on the domain, before any other layer has used the moments
            if place.start == 0:
                begun = self._domains.judge(rows, spread, self._moments, count=self.count, kappa=kappa)
                if begun is not None:
                    self.jumped, self._habit = True, kappa
                    # share() above has counted these samples towards the old stream: undone, and repeated for the new one
                    self.count, (self.prior, self.itself) = begun.count, before
                    self._moments[:] = begun.moments
                    self._runs.moved()
                    w = share()
                if not again:
                    self._runs.met(rows / spread[:, None], self._between_classes(place))
            self._moments[:, place] += w * (batch - self._moments[:, place])
            shift, belief = self._beyond_chance(self._moments[:, place] / spread, place, n)
            shift *= spread
            beliefs.append(belief)
            mean = shift[0] * np.sqrt(self._variance[place])
            # E (u - m₀)² - (E u - m₀)²
            variance = self._variance[place] * (1 + shift[1]) - mean**2
            return mean, np.maximum(variance, LEAST * self._variance[place])

        result = self._learner.normalised(point.with_parts({STATISTICS: self._given}), x, chosen)
        self.count, self.belief = min(WINDOW, self.count + n), float(np.mean(beliefs))
        return result

    def _beyond_chance(self, delta: Array, place: slice, n: int) -> tuple[Array, float]:
        """Return the believed part of Δ - λK, shape (2, c), and its share."""
        kappa, between = self.kappa, BETWEEN
        if self._classes is not None and kappa > 0:
            classes = self._classes[:, :, place]
            known = float(self.prior[self._known].sum())
            between = known * self._between_classes(place) + (1 - known) * BETWEEN
            explained = np.tensordot(self.prior.astype(np.float32), classes, axes=1).astype(np.float64)
            size = float((explained**2).sum())
            share = min(1.0, max(0.0, float((delta * explained).sum()) / size)) if size > 0 else 0.0
            delta = delta - kappa / (kappa + GATE) * share * explained
        shift = float((delta**2).mean())
        if place.start == 0:
            self.shift = shift
        doubt = between * kappa + (1 - kappa) * self._runs.factor / (self.count + n)
        if self._directed is not None:
            return self._directed.shift(place, delta, doubt)
        belief = max(0.0, 1 - doubt / shift) if shift > 0 else 0.0
        return belief * delta, belief

    def _between_classes(self, place: slice) -> float:
        """Return B of a layer for the base's own classes; ``BETWEEN`` if none of them is known."""
        if place.start not in self._between:
            found = BETWEEN
            if self._classes is not None and self._known.any():
                found = float((self._classes[self._known][:, :, place] ** 2).mean())
            self._between[place.start] = found
        return self._between[place.start]
