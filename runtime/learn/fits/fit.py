"""One fit of a signature's parts to labelled samples: Adam on class-balanced batches, with iterate averaging.

    w ← w + max(1/t, 1 - β) (p_t - w)        after step t, β = 0.9: the mean of the first steps, then of about the last ten

After a short warm-up the learning rates are constant, so a fit may stop at any step; the average replaces a decaying schedule
(Polyak and Juditsky 1992).
"""

from __future__ import annotations

import functools

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.fits.adam import Adam
from isoform.runtime.learn.learner import BATCH, Learner, Point
from isoform.runtime.learn.loss import cross_entropy
from isoform.runtime.learn.samples import balanced_batches, moved

__all__ = ["Fit"]

HEAD_RATE = 2.5e-3
"""Adam's learning rate for the logits layer; the learner defines those of the other parts."""
DECAY = 0.9
WARM_UP = 10  # Adam's first steps are as large for noise as for real gradients, and would undo a good start
"""Steps over which the learning rates rise linearly."""


class Fit:
    """A fit that is advanced step by step. Deterministic for a seed.

    Args:
        learner: Runs the network.
        start: Initial point.
        x: Samples, shape (n, channels, height, width), float32.
        labels: Class indices, shape (n,).
        moving: Names of the signature's parts to train.
        seed: Seed of batches and shifts.
    """

    def __init__(
        self, learner: Learner, start: Point, x: Array, labels: Array, *, moving: tuple[str, ...], seed: int
    ) -> None:
        self._learner, self._x, self._labels = learner, x, labels
        self._adam = Adam({name: HEAD_RATE if name in HEAD else learner.rates[name] for name in moving})
        self._rng = np.random.default_rng(seed)
        self._batches = balanced_batches(labels, BATCH, self._rng)
        self._here = start
        self._moving = moving
        self.steps = 0
        """Number of steps taken."""
        self.loss = float("nan")
        """Loss of the last batch, in nats."""
        self.point = start
        """The averaged iterate, the result of the fit."""

    def step(self) -> None:
        """Take one step."""
        rows = next(self._batches)
        x = moved(self._x[rows], self._rng)
        loss = functools.partial(cross_entropy, labels=self._labels[rows])
        self.loss, gradients = self._learner.gradient(self._here, x, loss, moving=self._moving)
        self.steps += 1
        scale = min(1.0, self.steps / WARM_UP)
        self._here = self._here.with_parts(self._adam.step(self._here.parts, gradients, scale=scale))
        share = max(1 / self.steps, 1 - DECAY)
        mean, here = self.point.parts, self._here.parts
        self.point = self._here.with_parts(
            {name: mean[name] + share * (here[name] - mean[name]) for name in self._moving}
        )
