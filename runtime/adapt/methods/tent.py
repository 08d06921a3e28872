"""Tent, entropy minimisation, and the base class of all methods with a gradient.

    statistics of the batch;    predict;    w ← w - Adam(∇ mean H(p))

on BN's affine map, another part with a gradient, or both. The statistics are treated as constants: no gradient flows through them.
A part without a gradient is softened at the start (``Learner.softened``).
Source: Wang et al. 2021, "Tent", sections 3.1 and 3.2, and its code for Adam's learning rate, 1e-3; that of ξ is ten times as large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from isoform.runtime.adapt.losses import entropy_loss
from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.adapt.methods.statistics import blended
from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.learn.fits.adam import Adam
from isoform.runtime.learn.learner import AFFINE, STATISTICS, Point, normalising
from isoform.runtime.learn.samples import spaced

__all__ = ["Gradient", "Tent"]

ROWS = 16  # a backward pass costs more than three forward passes
"""Maximum number of a batch's samples in a gradient step."""
STATISTICS_ROWS = 48
"""Maximum number of a batch's samples for BN statistics."""
FEWEST = 16
"""Minimum batch size for using the batch's own statistics; smaller batches update running statistics with weight ``FEW``."""
FEW = 0.05


class Gradient(Method):
    """Base class: statistics of the batch, and one gradient step per batch.

    Args:
        context: The adapter's context.
        parts: What to train, from ``Kind.moves``: ``bn``, another part with a gradient, or both.
        lr: Adam's learning rate for BN's affine map.
    """

    def __init__(self, context: Context, parts: Sequence[str] = ("bn",), lr: float = 1e-3) -> None:
        super().__init__(context)
        learner = normalising(context.learner, context.start.task)
        known = {
            part: names
            for part, names in learner.bundle.kind.moves.items()
            if set(names) <= set(learner.rates) - context.start.whole
        }
        if not parts or not set(parts) <= set(known):
            raise UsageError(f"parts are {tuple(parts)!r}, but one or more of {', '.join(known)} were expected")
        if not 0 < lr < 1:
            raise UsageError(f"lr is {lr!r}, but a number between 0 and 1 was expected")
        names = [name for part in parts for name in known[part]]
        self.moves = (*names, STATISTICS)
        # lr is BN's; the other parts keep the learner's proportions
        self._rates = {name: lr * learner.rates[name] / learner.rates[AFFINE] for name in names}
        self.reset(context.start)
        self.anchor = self.point
        """The start, softened where necessary."""

    def reset(self, point: Point) -> None:
        """Set the point, and forget the stream."""
        self.point = self.context.learner.softened(point, self.moves).owning(*self.moves)
        self._adam = Adam(self._rates)

    def observe(self, x: Array) -> None:
        """Update the statistics with this batch."""
        alpha = 1.0 if len(x) >= FEWEST else FEW
        statistics = blended(self.context.learner, self.point, spaced(x, STATISTICS_ROWS), alpha=alpha)
        self.point = self.point.with_parts({STATISTICS: statistics})

    def learn(self, x: Array, logits: Array) -> None:
        """Take one step."""
        self.step(x, self.loss)

    def loss(self, logits: Array) -> tuple[float, Array]:
        """Return the loss that a step minimises, and its gradient with respect to the logits."""
        return entropy_loss(logits)

    def step(
        self, x: Array, loss: Callable[[Array], tuple[float, Array]], *, more: Callable[[str], Array] | None = None
    ) -> None:
        """Take one step of Adam; ``more`` returns an additional gradient of each part."""
        _, gradients = self.context.learner.gradient(self.point, spaced(x, ROWS), loss, moving=self._rates)
        if more is not None:
            gradients = {name: gradients[name] + more(name) for name in self._rates}
        moved = self._adam.step(self.point.parts, gradients)
        self.point = self.point.with_parts({name: moved[name] for name in self._rates})


class Tent(Gradient):
    """BN statistics of the batch, and a gradient step on the entropy."""
