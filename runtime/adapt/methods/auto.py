"""``auto``: the default method, without options, for batches of 1 to 512, sorted or mixed classes, and changing domains.

BN statistics are those of the stream, as far as they exceed chance and the effect of its classes (``shrinkage.py``). If a batch is
large enough and its classes are mixed, BN's affine map then takes one gradient step on the information loss (``losses.py``) of a few
of its samples, and is pulled back towards the start (Marsden et al. 2024, "ROID": weight ensembling):

    w ← w - s · Adam(∇ L),       w ← w + ``PULL`` (w_start - w)

s is smaller for small batches, for few classes, if the statistics show little shift, and if predictions are so uncertain that most
are likely wrong: learning from wrong predictions reinforces them permanently.

The mixture does not change: compiled signatures are discrete, where it has no gradient, and softening it gained nothing (docs/log.md).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from isoform.runtime.adapt.losses import entropies, information_loss
from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.adapt.methods.shrinkage import Shrinkage
from isoform.runtime.arrays import Array, softmax
from isoform.runtime.learn.fits.adam import Adam
from isoform.runtime.learn.learner import AFFINE, STATISTICS, Point, normalising

__all__ = ["Auto"]

LEARNING_ROWS = 16
"""Number of a batch's samples in a gradient step: the least certain ones, because certain ones have almost no gradient."""
BELIEVED = 0.3
"""Normalised entropy (1 = uniform) above which a sample is used only if no more certain ones are left."""
LEAST_ROWS = 16  # the training graphs have a fixed batch size: a step costs the same for 1 sample as for 16
"""Minimum batch size for a gradient step."""
RATE = 1e-2
FULL = 128
"""Batch size for a full step of ``RATE``; smaller batches take smaller steps, by the square root."""
WARM_UP = 10  # Adam's first steps are as large for noise as for real gradients
"""Number of steps over which the rate rises linearly."""
PULL = 0.03
"""Share of the distance to the start that each step takes back."""
MIXED = 0.05
"""κ from which a stream has too few classes to learn from."""
GUESSED, TRUSTED = 0.3, 0.6
"""S of predictions (``losses.py``) up to which no step is taken, and from which full steps are taken."""


class Auto(Method):
    """BN statistics beyond chance, and a gradient step."""

    moves = (AFFINE, STATISTICS)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        facts, statistics = context.facts, context.start.parts.get(STATISTICS)
        assert statistics is not None
        self._shrinkage = Shrinkage(
            normalising(context.learner, context.start.task), facts, statistics, classes=context.classes
        )
        self.reset(context.start)

    def reset(self, point: Point) -> None:
        """Set the point, and forget the stream."""
        self.point = point.owning(AFFINE)
        self._adam, self._steps = Adam({AFFINE: RATE}), 0
        self._shrinkage.reset()
        self.mass = 1.0

    def observe(self, x: Array) -> None:
        """Update the BN statistics with the samples."""
        shrinkage = self._shrinkage
        result = shrinkage.follow(self.point, x, self.context.predict)
        self.point = self.point.with_parts({STATISTICS: result.statistics})
        self.jumped, self.mass, self.shift = shrinkage.jumped, shrinkage.count, shrinkage.shift

    def learn(self, x: Array, logits: Array) -> None:
        """Take a gradient step on BN's affine map."""
        kappa, belief = self._shrinkage.runs, self._shrinkage.belief
        trust = min((self._shrinkage.itself - GUESSED) / (TRUSTED - GUESSED), 1.0)
        # negated, so that NaN returns, too
        if not (len(x) >= LEAST_ROWS and kappa < MIXED and belief > 0 and trust > 0):
            return
        n, count = len(x), self._shrinkage.count
        prior = (count * self._shrinkage.prior + n * softmax(logits).mean(axis=0)) / (count + n)
        loss = functools.partial(information_loss, prior=prior, kappa=kappa)
        rows = np.ascontiguousarray(x[self._telling(logits)])
        _, gradients = self.context.learner.gradient(self.point, rows, loss, moving=(AFFINE,))
        self._steps += 1
        scale = min(1.0, math.sqrt(len(x) / FULL), self._steps / WARM_UP) * (1 - kappa / MIXED) * belief * trust
        moved = self._adam.step(self.point.parts, gradients, scale=scale)[AFFINE]
        start = self.context.start.parts[AFFINE]
        self.point = self.point.with_parts({AFFINE: moved + PULL * (start - moved)})

    def _telling(self, logits: Array) -> Array:
        """Return the most informative rows: the least certain ones below ``BELIEVED``, then more uncertain ones."""
        unsure = entropies(softmax(logits)) / math.log(max(2, self.context.classes))
        # negative keys come first: of the samples below BELIEVED the least certain leads
        order = np.argsort(np.where(unsure < BELIEVED, -unsure, unsure), kind="stable")
        return order[:LEARNING_ROWS]
