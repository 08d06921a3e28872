"""Search for parts that have no gradient, such as which components a network uses: one change at a time, kept if a loss falls.

The kind proposes the changes (``Kind.changes``). A pass tries each once, on the best point so far; passes end with one that keeps none.
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
MARGIN = 0.002  # as many changes are tried as there are components: below this, a fall is chance
"""Smallest fall of the loss, in nats, for which a change is kept."""
KEPT = 512
"""Number of points whose embeddings are kept: the searches of all folds try the same ones."""


class Search:
    """Searches for a better point from the same samples.

    Args:
        learner: Runs the network.
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
        self._embeddings: dict[bytes, Array] = {}
        self.tried = 0
        """Number of points that were tried so far."""

    def better(self, point: Point, rows: Array, *, limit: int, deadline: float) -> Iterator[Point]:
        """Search from a point; yield the best so far after every change that was tried.

        Args:
            point: Where to begin.
            rows: Rows of the samples to use, shape (m,).
            limit: Largest number of changes to try.
            deadline: When to stop, in seconds of ``time.monotonic``.
        """
        folds = self._folds(rows)
        if self._classes is not None and not folds:
            return
        loss, left, kept = self._loss(point, rows, folds), limit, True
        while kept:
            kept = False
            for change in self._changes:
                changed = change(point.parts)
                if not changed:
                    continue
                if not left or time.monotonic() >= deadline:
                    return
                left -= 1
                other = point.with_parts(changed)
                found = self._loss(other, rows, folds)
                if found < loss - MARGIN:
                    point, loss, kept = other, found, True
                yield point

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
        e = self._embedded(point)
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

    def _embedded(self, point: Point) -> Array:
        """Return the embeddings of all samples, shape (n, embedding)."""
        key = b"".join(array.tobytes() for name, array in point.parts.items() if name not in HEAD)
        if key not in self._embeddings:
            self.tried += 1
            if len(self._embeddings) >= KEPT:
                del self._embeddings[next(iter(self._embeddings))]
            self._embeddings[key] = self._learner.embeddings(point, self._x)
        return self._embeddings[key]
