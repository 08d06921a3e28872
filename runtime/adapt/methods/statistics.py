"""BN's statistics alone, no gradient: of the batch, blended with the base's, or running along.

    batch    m = mean(u),  v = var(u)                                              Schneider et al. 2020; Nado et al. 2020
    alpha    (1 - α) base + α batch, every batch anew                              Schneider et al. 2020, section 3
    ema      (1 - α) so far + α batch, beginning at the base                       as in training; You et al. 2021, "CORE"

u a convolution's output over the batch's samples and pixels. ``batch`` wants some hundred pixels or more, and collapses where a batch
holds few classes; ``auto`` is for where this is not known.
"""

from __future__ import annotations

from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.learn.learner import STATISTICS, Learner, Point, normalising
from isoform.runtime.learn.samples import spaced

__all__ = ["Alpha", "Batch", "Ema", "blended"]

ROWS = 512
"""At most so many samples go through at once, which bounds memory; of a larger batch so many, evenly spaced."""


def blended(learner: Learner, point: Point, x: Array, *, alpha: float) -> Array:
    """Statistics of samples, blended with the point's: (1 - α) m + α mean(u) and the variances alike; shape (2, N), float32."""
    return normalising(learner).statistics(point, spaced(x, ROWS), alpha=alpha)


class _Blend(Method):
    moves = (STATISTICS,)

    def __init__(self, context: Context, alpha: float) -> None:
        if not 0 < alpha <= 1:
            raise UsageError(f"alpha is {alpha!r}, but more than 0 and at most 1 was expected")
        super().__init__(context)
        self._alpha = alpha

    def observe(self, x: Array) -> None:
        """Statistics of this batch."""
        statistics = blended(self.context.learner, self._from(), x, alpha=self._alpha)
        self.point = self.point.with_parts({STATISTICS: statistics})

    def _from(self) -> Point:
        return self.context.start

    def reset(self, point: Point) -> None:
        """Stand at a point."""
        self.point = point


class Batch(_Blend):
    """The batch's own statistics."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, 1.0)


class Alpha(_Blend):
    """The base's statistics, moved by ``alpha`` towards the batch's."""

    def __init__(self, context: Context, alpha: float = 0.1) -> None:
        super().__init__(context, alpha)


class Ema(_Blend):
    """The stream's running statistics; each batch moves them by ``alpha``."""

    def __init__(self, context: Context, alpha: float = 0.1) -> None:
        super().__init__(context, alpha)

    def _from(self) -> Point:
        return self.point
