"""The starting points of fits, and the signatures that they end in: see ``runtime/learn/personalize.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.formats.inheritance import derived
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.fits.search import Search
from isoform.runtime.learn.fits.trial import Start
from isoform.runtime.learn.head import discriminant
from isoform.runtime.learn.learner import COEFFICIENTS, STATISTICS, Learner, Point, normalising
from isoform.runtime.learn.loss import scored
from isoform.runtime.learn.samples import class_shares

__all__ = ["TRIES", "Starts"]

STATISTICS_SAMPLES = 256  # bounds memory
"""Maximum number of samples for BN statistics."""
MUCH = 5
"""If re-estimated BN statistics reduce the loss by more than this factor, fits from the base's statistics are skipped.
If they do not, and no samples can be held out, the re-estimated statistics are not used."""
ASTRAY = 0.75  # with so many right, a high loss comes from one odd sample, not from a shifted domain
"""If no samples can be held out, BN statistics are not re-estimated when a start has at least this accuracy."""
TRIES = 256
"""Maximum number of changes that a search tries."""


class Starts:
    """Makes the starting points of fits, and signatures from their results.

    Args:
        learner: Runs the networks.
        x: Samples, shape (n, …).
        labels: Class indices, shape (n,).
        classes: Class names of a new logits layer; None to keep the start's.
        moving: Parts to train, of all starts together.
        seed: Seed of the samples that statistics are estimated from.
        back: Whether samples are held out.
    """

    def __init__(
        self,
        learner: Learner,
        x: Array,
        labels: Array,
        classes: tuple[str, ...] | None,
        moving: tuple[str, ...],
        seed: int,
        *,
        back: bool,
    ) -> None:
        self._back = back
        self._learner, self._x, self._labels, self._classes, self._moving = learner, x, labels, classes, moving
        self._seed = seed
        rows = np.random.default_rng(seed).permutation(len(x))[:STATISTICS_SAMPLES]
        self._few = x[np.sort(rows)]  # a random subset: files are often sorted by class

    def choose(self, starts: Sequence[Signature], *, statistics: bool) -> tuple[Signature, Point, list[Point]]:
        """Return the best start, its point, and the points to fit from: that one, the one with re-estimated BN statistics, or both.

        Raises ``InputError`` if no start's loss is finite.
        """
        points = [self._point(signature) for signature in starts]
        losses, shares = zip(*(self._score(point) for point in points), strict=True)
        statistics = statistics and (self._back or shares[int(np.argmin(losses))] < ASTRAY)
        found = []
        for signature, given, before in zip(starts, points, losses, strict=True):
            ways = [(before, given)]
            if statistics and self._learner.normalises(signature.task):
                anew = given.with_parts(self._estimated(given))
                loss, _ = self._score(anew)
                if loss * MUCH < before:
                    ways = [(loss, anew)]
                elif loss < before and self._back:
                    ways.append((loss, anew))
            found.append((min(loss for loss, _ in ways), signature, given, [point for _, point in ways]))
        # key: at equal losses min() would go on to compare signatures, which have no order
        loss, signature, given, points = min(found, key=lambda entry: entry[0])
        if not np.isfinite(loss):
            raise InputError(
                "samples hold numbers so large that the loss is not finite; scale the samples as in training"
            )
        return signature, given, points

    def _estimated(self, given: Point) -> Mapping[str, Array]:
        """Return BN statistics of the samples, or their coefficients if these are trained."""
        learner = normalising(self._learner, given.task)
        if COEFFICIENTS in self._moving:
            return learner.coefficients(given, self._few)
        # the new statistics stand for what the coefficients did
        found = {name: np.zeros_like(given.parts[name]) for name in self._replaced(given)}
        return {**found, STATISTICS: learner.statistics(given, self._few)}

    def _replaced(self, point: Point) -> list[str]:
        """Return the parts that re-estimated statistics replace besides those that are trained."""
        names = () if COEFFICIENTS in self._moving else (STATISTICS, COEFFICIENTS)
        return [name for name in names if name in point.parts]

    def _point(self, signature: Signature) -> Point:
        return self._learner.point(signature, self._moving)

    def _score(self, point: Point) -> tuple[float, float]:
        """Return loss in nats and accuracy on all samples, with equal weight for every class."""
        rows = np.arange(len(self._labels))
        # in float32, as a signature would hold it, because it is chosen by this score
        point = self.start(point, soft=False)(rows).rounded()
        if not point.finite:
            return math.inf, 0.0
        logits = self._learner.logits(point, self._x)
        shares = class_shares(self._labels)
        loss, right = scored(logits, self._labels, weights=shares)
        return loss, float(shares @ right)

    def settle(self, moving: Iterable[str]) -> tuple[str, ...]:
        """Train these parts alone, and return them."""
        self._moving = tuple(moving)
        return self._moving

    def start(self, point: Point, *, soft: bool) -> Start:
        """Return the start of fits: the point, softened if requested, with a new logits layer if the classes are new."""
        if soft:
            point = self._learner.softened(point, self._moving)
        if self._classes is None:
            return lambda _: point
        embeddings, classes = self._learner.embeddings(point, self._x), len(self._classes)

        def with_classes(rows: Array) -> Point:
            weight, bias = discriminant(embeddings[rows], self._labels[rows], classes)
            return point.with_parts({"logits.weight": weight, "logits.bias": bias})

        return with_classes

    def hunted(
        self, given: Point, back: Sequence[Array], *, deadline: float, tell: Callable[[int], None], done: int
    ) -> Start | None:  # fmt: skip
        """Search from a point for the parts without a gradient, once for every fold and once with all samples; reports steps from ``done`` on.

        Returns:
            The start of fits, which looks up what was found with its rows; None if nothing was.
        """
        bundle, classes = self._learner.bundle, self._classes
        others = [bundle.resolve(bundle.base(task)).parts for task in bundle.signatures]
        hunt = Search(
            self._learner, self._x, self._labels, classes=None if classes is None else len(classes),
            changes=bundle.kind.changes(bundle.spec, others), seed=self._seed,
        )  # fmt: skip
        everything = np.arange(len(self._labels))
        found: dict[bytes, Start] = {}
        moved = False
        for number, rows in enumerate([everything, *(np.setdiff1d(everything, fold) for fold in back)]):
            point = given
            for step, better in enumerate(hunt.better(given, rows, limit=TRIES, deadline=deadline), 1):
                point = better
                tell(done + number * TRIES + step)
            moved = moved or point is not given
            found[rows.tobytes()] = self.start(point, soft=False)
        return (lambda rows: found[rows.tobytes()](rows)) if moved else None

    def base(self, start: Signature) -> Signature:
        """Return the result if no fit is better: the start, with a new logits layer if the classes are new."""
        if self._classes is None:
            return start
        point = self.start(self._point(start), soft=False)(np.arange(len(self._labels)))
        return self._signature(start, {name: point.parts[name] for name in HEAD})

    def signature(self, start: Signature, point: Point, *, statistics: bool) -> Signature:
        """Return the start with the trained parts of a point."""
        names = [*self._moving, *(self._replaced(point) if statistics else [])]
        return self._signature(start, {name: point.parts[name] for name in names})

    def _signature(self, start: Signature, parts: dict[str, Array]) -> Signature:
        return derived(self._learner.bundle, start, parts, labels=self._classes)
