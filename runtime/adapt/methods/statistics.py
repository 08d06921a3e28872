"""Methods that change BN statistics only, without gradients: of the batch, blended with the base's, or running.

    batch    m = mean(u),  v = var(u)                                              Schneider et al. 2020; Nado et al. 2020
    alpha    (1 - α) base + α batch, every batch anew                              Schneider et al. 2020, section 3
    ema      (1 - α) previous + α batch, starting from the base                    as in training; You et al. 2021, "CORE"

u is a convolution's output over the batch's samples and pixels. ``batch`` needs a few hundred pixels or more, and fails if a batch
has few classes; use ``auto`` if this is unknown.
"""

from __future__ import annotations

from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.learn.learner import STATISTICS, Learner, Point, normalising
from isoform.runtime.learn.samples import spaced

__all__ = ["Alpha", "Batch", "Ema", "blended"]

ROWS = 512  # bounds memory
"""Maximum number of a batch's samples, evenly spaced."""


def blended(learner: Learner, point: Point, x: Array, *, alpha: float) -> Array:
    """Return statistics of samples blended with the point's: (1 - α) m + α mean(u), variances likewise; shape (2, N), float32."""
    return normalising(learner, point.task).statistics(point, spaced(x, ROWS), alpha=alpha)


class _Blend(Method):
    moves = (STATISTICS,)

    def __init__(self, context: Context, alpha: float) -> None:
        if not 0 < alpha <= 1:
            raise UsageError(f"alpha is {alpha!r}, but more than 0 and at most 1 was expected")
        super().__init__(context)
        self._alpha = alpha

    def observe(self, x: Array) -> None:
        """Update the statistics with this batch."""
        statistics = blended(self.context.learner, self._from(), x, alpha=self._alpha)
        self.point = self.point.with_parts({STATISTICS: statistics})

    def _from(self) -> Point:
        return self.context.start

    def reset(self, point: Point) -> None:
        """Set the point."""
        self.point = point


class Batch(_Blend):
    """BN statistics of each batch alone."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, 1.0)


class Alpha(_Blend):
    """BN statistics of each batch, blended with the base's.

    ``alpha`` is the batch's weight.
    """

    def __init__(self, context: Context, alpha: float = 0.1) -> None:
        super().__init__(context, alpha)


class Ema(_Blend):
    """Running BN statistics of the stream.

    ``alpha`` is each batch's weight.
    """

    def __init__(self, context: Context, alpha: float = 0.1) -> None:
        super().__init__(context, alpha)

    def _from(self) -> Point:
        return self.point
