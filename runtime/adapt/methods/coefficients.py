"""``coefficients``: BN statistics of a stream by a few whole numbers, ``bn.coefficients``; without gradients.

As ``auto`` (``shrinkage.py``), but only the part of the shift that is along the bundle's directions (``directions.py``). The adapted signature
has a few hundred bytes less than ``auto``'s thousands; it recovers less of the error (docs/performance.md).
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.adapt.methods.shrinkage import Shrinkage
from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.learn.learner import COEFFICIENTS, STATISTICS, Point, normalising

__all__ = ["Coefficients"]


class Coefficients(Method):
    """BN statistics by a few coefficients: the smallest signature."""

    moves = (COEFFICIENTS,)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        learner = normalising(context.learner, context.start.task)
        if learner.directions is None:
            raise UsageError("this bundle has no directions of BN statistics, so use auto; 'isoform train' makes them")
        self._step = learner.directions.step
        self._shrinkage = Shrinkage(
            learner, context.facts, context.start.parts[STATISTICS], classes=context.classes, rest=False
        )
        self.reset(context.start)

    def reset(self, point: Point) -> None:
        """Set the point, and forget the stream."""
        self.point = point
        self._shrinkage.reset()
        self.mass = 1.0

    def observe(self, x: Array) -> None:
        """Update the coefficients with the samples."""
        shrinkage = self._shrinkage
        shrinkage.follow(self.context.start, x, self.context.predict)
        self.jumped, self.mass, self.shift = shrinkage.jumped, shrinkage.count, shrinkage.shift
        whole = np.rint(shrinkage.coefficients / self._step).astype(np.int64)
        self.point = self.point.with_parts({COEFFICIENTS: whole})
