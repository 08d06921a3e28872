"""``auto``: no choice to make, from one sample at a time to 512, from sorted classes to a new domain every hour.

BN's statistics are the stream's, as far as they are more than chance and more than its classes (``shrinkage.py``). Where a batch is
large enough and its classes are mixed, BN's affine map then takes one step down the information loss (``losses.py``), on a few of
its samples, and is drawn back to the start (Marsden et al. 2024, "ROID": weight ensembling):

    w ← w - s · Adam(∇ L),       w ← w + ``PULL`` (w_start - w)

with s smaller for small batches, few classes, where the statistics say that little has shifted, and where predictions are so uncertain
that most are likely to be wrong: what is learned from those makes them worse, for ever.

The mixture does not move: compiled signatures are discrete, where it has no slope, and softened it gained nothing (docs/log.md).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from isoform.runtime.adapt.losses import entropies, information_loss
from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.adapt.methods.shrinkage import Shrinkage
from isoform.runtime.arrays import Array, softmax
from isoform.runtime.learn.adam import Adam
from isoform.runtime.learn.learner import AFFINE, STATISTICS, Point
from isoform.runtime.learn.samples import spaced

__all__ = ["Auto"]

STATISTICS_ROWS = 48
"""Samples of a batch that its statistics are made of."""
MIXTURE_ROWS = 32
"""Samples of a batch that its class distribution is guessed from."""
LEARNING_ROWS = 16
"""Samples of a batch that a step learns from: the least certain ones, because the others have no slope."""
BELIEVED = 0.3
"""Entropy, over that of a guess, from which on a sample is too uncertain to learn from before all others."""
LEAST_ROWS = 16
"""Smaller batches teach no step: a step costs the same for 1 as for 16."""
RATE = 1e-2
FULL = 128
"""Samples of a batch that are worth a step of ``RATE``; fewer are worth less, by the square root."""
WARM_UP = 10
"""Steps in which the rate rises: Adam's first steps are as large for noise as for slopes."""
PULL = 0.03
MIXED = 0.05
"""κ from which on a stream's classes are too few to learn from."""
GUESSED, TRUSTED = 0.3, 0.6
"""S of predictions (``losses.py``) up to which nothing is learned from them, and from which on they are learned from in full."""
SETTLING = 3
"""Passes of the first batch of a domain: its class distribution can only be seen once its statistics are about right."""


class Auto(Method):
    """The default."""

    moves = (AFFINE, STATISTICS)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        facts, statistics = context.facts, context.start.parts.get(STATISTICS)
        assert statistics is not None
        self._shrinkage = Shrinkage(context.learner, facts, statistics, classes=context.classes)
        self.reset(context.start)

    def reset(self, point: Point) -> None:
        """Stand at a point, and forget the stream."""
        self.point = point.owning(AFFINE)
        self._adam, self._steps = Adam({AFFINE: RATE}), 0
        self._shrinkage.reset()
        self.mass = 1.0

    def observe(self, x: Array) -> None:
        """Statistics of the samples, and of the stream before them."""
        shrinkage = self._shrinkage
        rows = spaced(x, STATISTICS_ROWS if shrinkage.count >= FULL else FULL)
        found = softmax(self.context.predict(spaced(rows, MIXTURE_ROWS)))
        new = shrinkage.count == 0
        result = shrinkage.update(self.point, rows, found)
        self.jumped = shrinkage.jumped
        if new or self.jumped:
            for _ in range(SETTLING - 1 if len(rows) >= LEAST_ROWS else 0):
                result = shrinkage.settle(self.point, rows, softmax(result.logits))
        self.point = self.point.with_parts({STATISTICS: result.statistics})
        self.mass, self.shift = shrinkage.count, shrinkage.shift

    def learn(self, x: Array, logits: Array) -> None:
        """A step of BN's affine map."""
        kappa, belief = self._shrinkage.kappa, self._shrinkage.belief
        trust = min((self._shrinkage.itself - GUESSED) / (TRUSTED - GUESSED), 1.0)
        if not (len(x) >= LEAST_ROWS and kappa < MIXED and belief > 0 and trust > 0):  # as NaN is, too
            return
        n, count = len(x), self._shrinkage.count
        prior = (count * self._shrinkage.prior + n * softmax(logits).mean(axis=0)) / (count + n)
        loss = functools.partial(information_loss, prior=prior, kappa=kappa)
        _, gradients = self.context.learner.gradient(self.point, np.ascontiguousarray(x[self._telling(logits)]), loss)
        self._steps += 1
        scale = min(1.0, math.sqrt(len(x) / FULL), self._steps / WARM_UP) * (1 - kappa / MIXED) * belief * trust
        moved = self._adam.step(self.point.parts, gradients, scale=scale)[AFFINE]
        start = self.context.start.parts[AFFINE]
        self.point = self.point.with_parts({AFFINE: moved + PULL * (start - moved)})

    def _telling(self, logits: Array) -> Array:
        """Rows that a step can learn most from: the least certain of those that are certain enough to be believed."""
        unsure = entropies(softmax(logits)) / math.log(max(2, self.context.classes))
        order = np.argsort(np.where(unsure < BELIEVED, -unsure, unsure), kind="stable")
        return order[:LEARNING_ROWS]
