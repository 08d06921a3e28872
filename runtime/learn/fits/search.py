"""Search for parts that have no gradient, such as which components a network uses: one change at a time, kept if a loss falls.

The kind proposes the changes (``Kind.changes``). A pass first tries each of them alone, then adds those by which the loss fell, the best
first, as long as it goes on falling. Passes end with one that finds none. (Tried: keeping every change that helps as soon as it is met.
It went astray after one or two, and missed masks that differed from the start in a single component.)

What is found depends on the samples that it was found with, so a trial searches anew for every fold, without the samples that it holds
out (``trial.py``).

For new classes a point is scored by cross-validation: the logits layer of ``head.discriminant`` is computed from three quarters of the
samples, and scored on the rest. For the start's own classes it is the loss of the start's logits layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.fits.folds import stratified_folds
from isoform.runtime.learn.head import discriminant
from isoform.runtime.learn.learner import Learner, Point
from isoform.runtime.learn.loss import scored
from isoform.runtime.learn.samples import class_shares

__all__ = ["Search"]

FOLDS = 4
MARGIN = 0.01
"""Smallest fall of the loss, in nats, for which a change is kept. (Tried: 0.002, by which 0.3 points less were gained; docs/log.md.)"""


class Search:
    """Searches for a better point from the same samples.

    Args:
        learner: Runs the network. The searches of all folds try the same points: it should keep embeddings (``remembered.py``).
        x: Samples, shape (n, …).
        labels: Class indices, shape (n,).
        classes: Number of classes of a new logits layer; None to keep the start's.
        changes: The changes to try, in order: parts → those that change, none if there is nothing to change.
        seed: Seed of the cross-validation.
    """

    def __init__(
        self, learner: Learner, x: Array, labels: Array, *, classes: int | None,
        changes: Sequence[Callable[[Mapping[str, Array]], Mapping[str, Array]]], seed: int,
    ) -> None:  # fmt: skip
        self._learner, self._x, self._labels, self._classes, self._changes = learner, x, labels, classes, changes
        self._seed = seed

    def better(self, point: Point, rows: Array, *, limit: int, deadline: float) -> Iterator[Point]:
        """Search from a point; yield the best so far after every change that was tried.

        Args:
            point: Where to begin.
            rows: Rows of the samples to use, shape (m,).
            limit: Largest number of changes to try; one more is scored if the last one that was tried alone helped.
            deadline: When to stop, in seconds of ``time.monotonic``.
        """
        folds = self._folds(rows)
        if self._classes is not None and not folds:
            return
        loss, left = self._loss(point, rows, folds), limit
        while True:
            alone = list[tuple[float, int]]()
            for number, change in enumerate(self._changes):
                if not (changed := change(point.parts)):
                    continue
                if not left or time.monotonic() >= deadline:
                    break
                left -= 1
                alone.append((self._loss(point.with_parts(changed), rows, folds), number))
                yield point
            promising = sorted(entry for entry in alone if entry[0] < loss - MARGIN)
            for _, number in promising:
                other = point.with_parts(self._changes[number](point.parts))
                # the first of them was scored already, so what was found before the limit is kept
                if (found := self._loss(other, rows, folds)) < loss - MARGIN:
                    point, loss = other, found
                left = max(0, left - 1)
                yield point
                if not left or time.monotonic() >= deadline:
                    break
            if not promising or not left or time.monotonic() >= deadline:
                return

    def _folds(self, rows: Array) -> list[Array]:
        """Return the held-out rows of each fold; none if a class has a single sample."""
        labels = self._labels[rows]
        least = int(np.bincount(labels)[np.unique(labels)].min())
        if least < 2:
            return []
        rng = np.random.default_rng(self._seed)
        return [rows[fold] for fold in stratified_folds(labels, min(FOLDS, least), rng)]

    def _loss(self, point: Point, rows: Array, folds: list[Array]) -> float:
        """Score a point, in nats."""
        e = self._learner.embeddings(point, self._x)
        if self._classes is None:
            return self._scored(e[rows] @ point.parts[HEAD[0]].T + point.parts[HEAD[1]], rows)
        losses = []
        for fold in folds:
            rest = np.setdiff1d(rows, fold)
            weight, bias = discriminant(e[rest], self._labels[rest], self._classes)
            losses.append(self._scored(e[fold] @ weight.T + bias, fold))
        return float(np.mean(losses))

    def _scored(self, logits: Array, rows: Array) -> float:
        labels = self._labels[rows]
        loss, _ = scored(logits, labels, weights=class_shares(labels))
        return loss
