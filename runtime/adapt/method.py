"""What every way to adapt is: numbers of a signature that move with the samples, before they are predicted and after.

An ``Adapter`` asks, for every batch, first ``observe`` (which may look at the samples, and move), then predicts with the signature,
then hands the logits to ``outputs`` (which may correct them, and moves nothing), and at last to ``learn`` (which may move again).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.learn.learner import AFFINE, STATISTICS, Learner, Point, normalising
from isoform.runtime.learn.source import Source

__all__ = ["Context", "Method"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """What a method works with."""

    learner: Learner
    source: Source | None
    """What the base saw of its training samples; None if the network's kind measures nothing."""
    start: Point
    """The numbers of the signature that adaptation begins from."""
    predict: Callable[[Array], Array]
    """Logits of samples by the signature in use, shape (n, classes), float32, by the fast engine."""
    score: Callable[[Point, Array], Array]
    """Logits of samples at another point; a signature is made for it and forgotten."""
    classes: int
    seed: int

    @property
    def facts(self) -> Source:
        """``source``; ``UsageError`` if it is not known."""
        if self.source is None:
            kind = self.learner.bundle.spec.kind
            raise UsageError(
                f"this method needs BN, and networks of kind {kind!r} have none; take t3a, lame, spsa or cma-es"
            )
        return self.source


class Method(abc.ABC):
    """One way to adapt; made anew for every stream. Not safe to share between threads."""

    moves: tuple[str, ...] = ()
    """Parts of the signature that it moves."""

    def __init__(self, context: Context) -> None:
        if not {AFFINE, STATISTICS}.isdisjoint(self.moves):
            normalising(context.learner)
        self.context = context
        self.point = context.start
        """Where it stands."""
        self.mass = 1.0
        """How many samples the present numbers stand for: they need not be written down again for every single sample more."""
        self.shift: float | None = None
        """How far the samples are from the base's, in squared spreads; None if it does not know."""
        self.jumped = False
        """Whether the last batch began another domain."""

    def observe(self, x: Array) -> None:  # noqa: B027  # most methods need only one of the two
        """Look at samples before they are predicted. May move ``point``."""

    def outputs(self, x: Array, logits: Array) -> Array:
        """What to answer: shape (n, classes), float32."""
        return logits

    def learn(self, x: Array, logits: Array) -> None:  # noqa: B027
        """Learn from samples and what was answered. May move ``point``."""

    @abc.abstractmethod
    def reset(self, point: Point) -> None:
        """Stand at a point, and forget the stream."""
