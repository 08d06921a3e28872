"""How long to fit: a fit to all samples, and beside it fits that hold samples back and say when it has gone far enough.

All fits take the same steps in turn. After every ``EVERY`` steps the held-back samples of all folds are scored together; where they
were best, the mean of the fits is kept (Wortsman et al. 2022, "Model soups"), so that there is something to hand back at any moment.
Only fits with the same start have a mean: a logits layer for new classes is made of each fit's own samples. It ends after
``PATIENCE`` scores that were no better, or when the steps or the time are used up.

A step counts only if it is better than the start on samples that it has not seen: a lower loss, not fewer right, and those that
it wins outweigh those that it loses by more than chance (of w won and l lost, w - l at least √(w + l), one standard error; McNemar
1947). As many right by a swap of two classes is no evidence: a person lost 35 points by it.

Samples that are the only ones of their class cannot be held back: without them a fit forgets that class (tried: every fit looked
harmful). Where most classes have one, the fit moves just until its loss on them is ``ENOUGH``, and not at all if it was before:
the smallest move that explains what it was shown. A move that gets none of the wrong ones right explains nothing and is not taken.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.learn.fit import Fit
from isoform.runtime.learn.learner import Learner, Point
from isoform.runtime.learn.loss import scored
from isoform.runtime.learn.samples import class_shares, folds

__all__ = ["Score", "Trial", "held_back"]

FOLDS = 4
EVERY = 10
PATIENCE = 4
ENOUGH = 0.02
"""Nats; a mean probability of 0.98 for the right class."""
MARGIN = 0.01
"""Nats. Where the start is as good as certain, smaller differences lead nowhere (tried: a domain trained on lost half a point)."""
DOUBT = 2
"""Standard errors by which fits must be better whose starts differ, as logits layers for new classes do. The ones beside the fit to all
samples start from fewer, so that they have more to gain (alphabets lost half a point on average by believing them)."""
PLENTY = 24
"""So many samples held back are enough for one fold."""

Start = Callable[[Array], Point]
"""Rows of the samples to learn from → where a fit to them begins. Constant, but for a logits layer made of those samples."""


@dataclasses.dataclass(frozen=True)
class Score:
    """How well held-back samples do."""

    loss: float
    """Mean cross-entropy in nats, every class counting alike; infinite where it is not finite."""
    accuracy: float
    """Share that is right, 0 to 1, every class counting alike."""
    right: frozenset[int] = dataclasses.field(default=frozenset(), repr=False)
    """Which samples are right."""

    def better_than(self, other: Score, *, errors: float = 1) -> bool:
        """A lower loss, by more than chance among samples that are right anyway; not fewer right; and those won outweigh those lost.

        Args:
            other: What to be better than.
            errors: By how many standard errors, if any are won or lost.
        """
        won, lost = len(self.right - other.right), len(other.right - self.right)
        clear = won - lost >= errors * math.sqrt(won + lost)
        return self.loss < other.loss - MARGIN and self.accuracy >= other.accuracy and clear


def held_back(labels: Array, *, seed: int) -> list[Array]:
    """Which rows are held back, fold by fold.

    Args:
        labels: Indices of classes, shape (n,).
        seed: Of the choice.

    Returns:
        Disjoint sets of rows; empty if fewer than half of the classes have two samples.
    """
    counts = np.bincount(labels)
    several = np.flatnonzero(counts[labels] >= 2)
    if 2 * np.count_nonzero(counts >= 2) < np.count_nonzero(counts):
        return []
    count = min(FOLDS, int(counts[counts >= 2].min()))
    found = [several[fold] for fold in folds(labels[several], count, np.random.default_rng(seed))]
    return found[:1] if len(found[0]) >= PLENTY else found


@dataclasses.dataclass(frozen=True)
class Best:
    """Where a fit was best."""

    point: Point | None
    """The mean of the fits; None if they were never better than the start."""
    score: Score
    """How each fit does there on the samples that it has not seen; the start's if there is no point."""
    steps: int


class Trial:
    """One way to fit, and what has come of it so far.

    Args:
        learner: Runs the network.
        start: Where fits begin.
        base: What to be better than, on rows that it may not learn from.
        x: Samples, shape (n, channels, height, width), float32.
        labels: Indices of classes, shape (n,).
        moving: Names of the signature's parts that move.
        back: What ``held_back`` returned.
        seed: Of the fits.
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
        self._akin = [fit for fit, point in zip(fits, starts, strict=True) if point is starts[0]]
        self.before = self._score([base(rows) for rows in self._rest or [self._all]])
        """How the start does."""
        self.best = Best(None, self.before, 0)
        """The best so far."""
        self.loss = float("nan")
        """Of the last batch of the fit to all samples, in nats."""

    def consider(self, start: Start) -> None:
        """Take a start that needs no steps, if it is better than what was found so far."""
        self._take(self._score([start(rows) for rows in self._rest or [self._all]]), start(self._all))

    def run(self, *, steps: int, deadline: float) -> Iterator[int]:
        """Fit; yields the number of steps taken after each.

        Args:
            steps: At most so many.
            deadline: When to stop, on ``time.monotonic``'s clock.
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
                    self._take(score, self._fit.point)
                if late or score.loss <= ENOUGH:
                    return
            elif step % EVERY == 0 or step == steps or late:
                idle = 0 if self._take(self._score([fit.point for fit in self._fits]), self._mean()) else idle + 1
                if late or idle == PATIENCE:
                    return

    def _mean(self) -> Point:
        """The mean of the fit to all samples and of those beside it that began where it did."""
        parts = [fit.point.parts for fit in self._akin]
        return self._fit.point.with_parts({name: np.mean([p[name] for p in parts], axis=0) for name in self._moving})

    def _take(self, score: Score, point: Point) -> bool:
        """Keep a point if it is the best so far; whether it is."""
        errors = 1 if len(self._akin) > len(self._fits) else DOUBT
        point = point.rounded()
        if not score.better_than(self.before, errors=errors) or score.loss >= self.best.score.loss or not point.finite:
            return False
        self.best = Best(point, score, self._fit.steps)  # one assignment: Ctrl-C may come at any moment
        return True

    def _score(self, points: list[Point]) -> Score:
        """Score each fold's held-back samples by its point; all samples by the only point where nothing is held back."""
        sets = self._back or [self._all]
        found = [self._learner.logits(p.rounded(), self._x[rows]) for p, rows in zip(points, sets, strict=True)]
        logits = np.concatenate(found)
        rows = np.concatenate(sets)
        labels = self._labels[rows]
        shares = class_shares(labels)
        loss, right = scored(logits, labels, weights=shares)
        return Score(loss, round(float(shares @ right), 9), frozenset(rows[right].tolist()))
