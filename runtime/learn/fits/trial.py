"""Early stopping by cross-validation: one fit to all samples, and one fit per fold whose held-out samples decide when to stop.

All fits advance in lockstep. Every ``EVERY`` steps the held-out samples of all folds are scored together; at the best score the mean
of the fits is kept (Wortsman et al. 2022, "Model soups"), so that a result is available at any moment. Only fits with the same start
are averaged: a logits layer for new classes is computed from each fit's own samples. The trial ends after ``PATIENCE`` scores
without improvement, at the limit of steps or time, or at a loss of ``ENOUGH``: what fits more closely is larger, and no more right.

Then points between the start and that result are scored too, for fits with the same start (WiSE-FT, Wortsman et al. 2022, "Robust
fine-tuning of zero-shot models"):

    p(α) = start + α (fit - start),        α in ``ALPHAS`` or 1, the same for all fits

The lowest loss decides. (Tried: the smallest α within ``MARGIN`` of it. It helped people on another occasion, and cost a domain that
stayed as it was up to 1.7 points; docs/log.md.)

A result counts only if it is better than the start on held-out samples: a lower loss, not fewer correct, and more newly correct
than newly wrong samples, beyond chance (w won and l lost: w - l at least √(w + l), one standard error; McNemar 1947).

The only sample of a class cannot be held out: without it a fit forgets that class (tried: every fit looked harmful). If most classes
have a single sample, the fit runs until its training loss is ``ENOUGH``, and not at all if the loss was that low before: the smallest
change that fits the samples. A result that corrects no sample is discarded.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.learn.fits.fit import Fit
from isoform.runtime.learn.fits.folds import group_folds, groups_per_class, stratified_folds
from isoform.runtime.learn.learner import Learner, Point
from isoform.runtime.learn.loss import scored
from isoform.runtime.learn.samples import class_shares

__all__ = ["Score", "Trial", "held_back"]

FOLDS = 4
EVERY = 10
PATIENCE = 4
ENOUGH = 0.02  # a mean probability of 0.98 for the right class
"""Loss in nats at which a fit stops: of the held-out samples, or of the training samples if there are none."""
# if the start is almost certain, smaller gains are noise (tried: a domain seen in training lost half a point)
MARGIN = 0.01
"""Minimum decrease of the loss, in nats."""
DOUBT = 2
"""Standard errors of improvement required if the fits' starts differ, as with logits layers for new classes. A fold's fit starts from
fewer samples than the fit to all, so it has more to gain (with 1, alphabets lost half a point on average)."""
PLENTY = 24
"""Number of held-out samples, or of held-out groups, at which a single fold is enough."""
ALPHAS = (0.25, 0.5, 0.75)
"""Weights of the fit between the start, 0, and the fit, 1; each costs one score."""

Start = Callable[[Array], Point]
"""Rows of the training samples → start of a fit to them. Constant, unless a new logits layer is computed from those samples."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Scores on held-out samples."""

    loss: float
    """Mean cross-entropy in nats, with equal weight for every class; infinite if it is not finite."""
    accuracy: float
    """Share of correct predictions, 0 to 1, with equal weight for every class."""
    right: frozenset[int] = dataclasses.field(default=frozenset(), repr=False)
    """Indices of the correctly predicted samples."""

    def better_than(self, other: Score, *, errors: float = 1) -> bool:
        """Return whether the loss is lower by ``MARGIN``, the accuracy not lower, and the gain in correct samples beyond chance.

        Args:
            other: The score to compare with.
            errors: Required gain in standard errors, if any sample was won or lost.
        """
        # Without the test of won against lost samples, a swap of two classes passes with equal accuracy: a person lost 35 points by it.
        won, lost = len(self.right - other.right), len(other.right - self.right)
        clear = won - lost >= errors * math.sqrt(won + lost)
        return self.loss < other.loss - MARGIN and self.accuracy >= other.accuracy and clear


def held_back(labels: Array, *, seed: int, groups: Array | None = None) -> list[Array]:
    """Choose the held-out rows of each fold: whole groups where there are groups, else random samples of every class.

    A class that is in a single group cannot be held out by group, or its fits would forget it: of such a class, random samples are held
    out, although they are alike to those of the rest. If that is so for every class, the result is that without groups.

    Args:
        labels: Class indices, shape (n,).
        seed: Seed of the choice.
        groups: Group of each sample, shape (n,), int64, 0 or more; None if they are not known.

    Returns:
        Disjoint sets of rows. Every class in a fold has a sample outside it, and outside the fold's groups if the class is in several.
        Empty if fewer than half of the classes have two samples.
    """
    counts = np.bincount(labels)
    several = np.flatnonzero(counts[labels] >= 2)
    if 2 * np.count_nonzero(counts >= 2) < np.count_nonzero(counts):
        return []
    rng = np.random.default_rng(seed)
    shared = np.zeros_like(counts) if groups is None else groups_per_class(labels, groups)
    if groups is not None and shared.max() >= 2:
        return _held_back_by_group(labels, groups, shared, several, rng)
    # so that every fold has a sample of each class that has two or more
    count = min(FOLDS, int(counts[counts >= 2].min()))
    found = [several[fold] for fold in stratified_folds(labels[several], count, rng)]
    return found[:1] if len(found[0]) >= PLENTY else found


def _held_back_by_group(
    labels: Array, groups: Array, shared: Array, several: Array, rng: np.random.Generator
) -> list[Array]:
    """Hold out whole groups of the classes that are in two or more, and random rows of ``several`` for the others."""
    count = min(FOLDS, int(shared[shared >= 2].min()))
    whole = np.flatnonzero(shared[labels] >= 2)
    found = [whole[fold] for fold in group_folds(labels[whole], groups[whole], count, rng)]
    # a single fold is enough if it has many groups: samples of one group tell as little as one (tried: one person of four, with 30
    # samples, passed fits for others that all four refused)
    found = found[:1] if len(np.unique(groups[found[0]])) >= PLENTY else found
    alone = several[shared[labels[several]] < 2]
    if alone.size:
        random = stratified_folds(labels[alone], count, rng)
        found = [np.sort(np.concatenate([fold, alone[rows]])) for fold, rows in zip(found, random, strict=False)]
    return found


@dataclasses.dataclass(frozen=True)
class Best:
    """The best result of a trial so far."""

    point: Point | None
    """Mean of the fits; None if they were never better than the start."""
    score: Score
    """Score of the fits on their held-out samples; the start's score if ``point`` is None."""
    steps: int
    interpolation: float = 1.0
    """α, the weight of the fit in its interpolation with the start; 1 for the fit as it is."""


class Trial:
    """The fits from one start, and their best result so far.

    Args:
        learner: Runs the network.
        start: Start of the fits.
        base: Baseline that a result must improve on.
        x: Samples, shape (n, channels, height, width), float32.
        labels: Class indices, shape (n,).
        moving: Names of the signature's parts to train.
        back: Held-out rows, the result of ``held_back``.
        seed: Seed of the fits.
    """

    def __init__(
        self, learner: Learner, start: Start, base: Start, x: Array, labels: Array, *,
        moving: tuple[str, ...], back: list[Array], seed: int,
    ) -> None:  # fmt: skip
        self._learner, self._x, self._labels, self._back = learner, x, labels, back
        self._all = np.arange(len(labels))
        self._moving = moving
        self._rest = [np.setdiff1d(self._all, fold) for fold in back]
        subsets = [self._all, *self._rest]
        starts = [start(rows) for rows in subsets]
        fits = [
            Fit(learner, point, x[rows], labels[rows], moving=moving, seed=seed)
            for point, rows in zip(starts, subsets, strict=True)
        ]
        self._fit, self._fits = fits[0], fits[1:]
        self._start = starts[0]
        self._akin = [fit for fit, point in zip(fits, starts, strict=True) if point is starts[0]]
        self._one_start = len(self._akin) == len(fits)
        self.before = self._score([base(rows) for rows in self._rest or [self._all]])
        """Score of the baseline."""
        self.best = Best(None, self.before, 0)
        """Best result so far."""
        self.loss = float("nan")
        """Loss of the last batch of the fit to all samples, in nats."""
        self._fitted: list[Point] = []
        """The mean of the fits and each fold's fit when the best result was taken; empty if that is no fit."""

    def consider(self, start: Start) -> None:
        """Score a start without fitting, and keep it if it is the best so far."""
        self._take(self._score([start(rows) for rows in self._rest or [self._all]]), start(self._all), steps=0)

    def run(self, *, steps: int, deadline: float) -> Iterator[int]:
        """Fit; yield the number of steps after each step.

        Args:
            steps: Maximum number of steps.
            deadline: When to stop, in seconds of ``time.monotonic``.
        """
        idle = 0
        if not self._back and self.before.loss <= ENOUGH:
            return
        for step in range(1, steps + 1):
            for fit in (self._fit, *self._fits):
                fit.step()
            self.loss = self._fit.loss
            yield step
            late = time.monotonic() >= deadline
            if not self._back:
                score = self._score([self._fit.point])
                if score.accuracy > self.before.accuracy or score.accuracy == 1:
                    self._take(score, self._fit.point, steps=step)
                if late or score.loss <= ENOUGH:
                    return
            elif step % EVERY == 0 or step == steps or late:  # scoring costs as much as several steps
                mean, points = self._mean(), [fit.point for fit in self._fits]
                if self._take(self._score(points), mean, steps=step):
                    idle, self._fitted = 0, [mean, *points]
                else:
                    idle += 1
                if late or idle == PATIENCE or step == steps or self.best.score.loss <= ENOUGH:
                    self._interpolate()
                    return

    def _interpolate(self) -> None:
        """Take a point between the start and the best fit if its loss is lower."""
        # where each fold has another start, one α does not mean the same to all
        if not self._fitted or not self._one_start:
            return
        start = self._start.parts
        for alpha in ALPHAS:
            mean, *points = (
                fit.with_parts({name: start[name] + alpha * (fit.parts[name] - start[name]) for name in self._moving})
                for fit in self._fitted
            )
            self._take(self._score(points), mean, steps=self.best.steps, alpha=alpha)

    def _mean(self) -> Point:
        """Return the mean of the fit to all samples and the folds' fits with the same start."""
        parts = [fit.point.parts for fit in self._akin]
        return self._fit.point.with_parts({name: np.mean([p[name] for p in parts], axis=0) for name in self._moving})

    def _take(self, score: Score, point: Point, *, steps: int, alpha: float = 1.0) -> bool:
        """Keep a point if it is the best so far; return whether it is."""
        errors = 1 if self._one_start else DOUBT
        point = point.rounded()
        if not score.better_than(self.before, errors=errors) or score.loss >= self.best.score.loss or not point.finite:
            return False
        # a single assignment, because Ctrl-C can interrupt at any point
        self.best = Best(point, score, steps, alpha)
        return True

    def _score(self, points: list[Point]) -> Score:
        """Score each fold's held-out samples with its point; all samples with the only point if there are no folds."""
        sets = self._back or [self._all]
        found = [self._learner.logits(p.rounded(), self._x[rows]) for p, rows in zip(points, sets, strict=True)]
        logits = np.concatenate(found)
        rows = np.concatenate(sets)
        labels = self._labels[rows]
        shares = class_shares(labels)
        loss, right = scored(logits, labels, weights=shares)
        # rounded, because the order of summation must not decide whether two accuracies are equal
        return Score(loss, round(float(shares @ right), 9), frozenset(rows[right].tolist()))
