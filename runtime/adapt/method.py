"""Base class of adaptation methods, which change parts of a signature before and after the samples are predicted.

For every batch an ``Adapter`` calls ``observe`` (which may use the samples to change the point), then predicts with the signature,
then passes the logits to ``outputs`` (which may correct them, but changes no point) and finally to ``learn`` (which may change it).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.learn.learner import AFFINE, COEFFICIENTS, STATISTICS, Learner, Point, normalising
from isoform.runtime.learn.source import Source

__all__ = ["Context", "Method"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """What the adapter provides to a method."""

    learner: Learner
    source: Source | None
    """Statistics of the base's training samples; None if the network's kind has none."""
    start: Point
    """Parameters of the signature that adaptation starts from."""
    predict: Callable[[Array], Array]
    """Logits of samples with the current signature, shape (n, classes), float32, by the fast engine."""
    score: Callable[[Point, Array], Array]
    """Logits of samples at another point, with a temporary signature."""
    classes: int
    seed: int

    @property
    def facts(self) -> Source:
        """The ``source``. Raises ``UsageError`` if there is none."""
        if self.source is None:
            kind = self.learner.bundle.spec.kind
            raise UsageError(
                f"this method needs BN, but networks of kind {kind!r} have none; use t3a, lame, spsa or cma-es"
            )
        return self.source


class Method(abc.ABC):
    """An adaptation method, one instance per stream. Not thread-safe."""

    moves: tuple[str, ...] = ()
    """Parts of the signature that it changes."""

    def __init__(self, context: Context) -> None:
        if not {AFFINE, STATISTICS, COEFFICIENTS}.isdisjoint(self.moves):
            normalising(context.learner, context.start.task)
        self.context = context
        self.point = context.start
        """The current parameters."""
        self.mass = 1.0
        """Number of samples that the current parameters represent; the adapter uses it to decide when a new signature is worthwhile."""
        self.shift: float | None = None
        """Distance of the samples from the base's, in squared spreads; None if the method does not measure it."""
        self.jumped = False
        """Whether the last batch started another domain."""

    def observe(self, x: Array) -> None:  # noqa: B027  # not abstract: most methods override only one of the two
        """Use samples before they are predicted. May change ``point``."""

    def outputs(self, x: Array, logits: Array) -> Array:
        """Return the logits to output, shape (n, classes), float32."""
        return logits

    def learn(self, x: Array, logits: Array) -> None:  # noqa: B027
        """Learn from samples and their output logits. May change ``point``."""

    @abc.abstractmethod
    def reset(self, point: Point) -> None:
        """Set the point, and forget the stream."""
