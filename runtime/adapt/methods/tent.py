"""Entropy: predictions should be certain. And what every method with a gradient shares.

    statistics of the batch;    predict;    w ← w - Adam(∇ mean H(p))

on BN's affine map, the mixture, or both. The statistics count as constants here: the gradient does not go through them.
A mixture that is discrete has no slope, so it begins softened (``isoform.runtime.learn.start``).
Source: Wang et al. 2021, "Tent", sections 3.1 and 3.2, and its code for Adam's rate, 1e-3; ξ takes ten times as much.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from isoform.runtime.adapt.losses import entropy_loss
from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.adapt.methods.statistics import blended
from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.kinds.mixture.learn.learner import Point
from isoform.runtime.learn.adam import Adam
from isoform.runtime.learn.samples import spaced
from isoform.runtime.learn.start import softened

__all__ = ["PARTS", "Gradient", "Tent"]

PARTS = {"bn": "bn.affine", "mixture": "mixture"}
"""What may move → the signature's part."""
MIXTURE_RATIO = 10.0
"""ξ's rate over BN's."""
ROWS = 16
"""A step learns from at most so many samples of a batch: a backward pass costs more than three forward ones."""
STATISTICS_ROWS = 48
FEWEST = 16
"""A batch's own statistics are taken from so many samples on; of fewer, they are the stream's, each moved by ``FEW``."""
FEW = 0.05


class Gradient(Method):
    """Statistics of the batch, and one step per batch.

    Args:
        context: What it works with.
        parts: What moves: ``bn``, ``mixture``, or both.
        lr: Adam's rate for BN's affine map.
    """

    def __init__(self, context: Context, parts: Sequence[str] = ("bn",), lr: float = 1e-3) -> None:
        super().__init__(context)
        if not parts or not set(parts) <= set(PARTS):
            raise UsageError(f"parts are {tuple(parts)!r}, but one or more of {', '.join(PARTS)} were expected")
        if not 0 < lr < 1:
            raise UsageError(f"lr is {lr!r}, but a number between 0 and 1 was expected")
        self.moves = (*(PARTS[part] for part in parts), "bn.statistics")
        self._rates = {PARTS[part]: lr * (MIXTURE_RATIO if part == "mixture" else 1) for part in parts}
        self.reset(context.start)
        self.anchor = self.point
        """The start, softened where it must be."""

    def reset(self, point: Point) -> None:
        """Stand at a point, and forget the stream."""
        if "mixture" in self.moves:
            point = point.with_parts({"mixture": softened(point.parts["mixture"])})
        self.point = dataclasses.replace(point, own_affine=point.own_affine or "bn.affine" in self.moves)
        self._adam = Adam(self._rates)

    def observe(self, x: Array) -> None:
        """Statistics of this batch."""
        alpha = 1.0 if len(x) >= FEWEST else FEW
        statistics = blended(self.context.learner, self.point, spaced(x, STATISTICS_ROWS), alpha=alpha)
        self.point = self.point.with_parts({"bn.statistics": statistics})

    def learn(self, x: Array, logits: Array) -> None:
        """One step."""
        self.step(x, self.loss)

    def loss(self, logits: Array) -> tuple[float, Array]:
        """What the step goes down: the loss, and its gradient by the logits."""
        return entropy_loss(logits)

    def step(
        self, x: Array, loss: Callable[[Array], tuple[float, Array]], *, more: Callable[[str], Array] | None = None
    ) -> None:
        """One step of Adam on samples; ``more`` is added to the gradient of each part."""
        _, gradients = self.context.learner.gradient(self.point, spaced(x, ROWS), loss)
        if more is not None:
            gradients = {name: gradients[name] + more(name) for name in self._rates}
        moved = self._adam.step(self.point.parts, gradients)
        self.point = self.point.with_parts({name: moved[name] for name in self._rates})


class Tent(Gradient):
    """Entropy of every sample."""
