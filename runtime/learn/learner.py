"""What learning and adaptation ask of a network: the door between them and the kinds.

    Point        where learning stands: a complete signature's numbers
    Learner      logits, embeddings, losses and gradients at a point
    Normalising  a learner of a network with BN: its statistics too

A kind with BN names its parts as ``AFFINE`` and ``STATISTICS`` say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, Self, cast

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature

__all__ = [
    "AFFINE",
    "BATCH",
    "STATISTICS",
    "Learner",
    "Moments",
    "Normalising",
    "Pass",
    "Point",
    "normalising",
]

AFFINE, STATISTICS = "bn.affine", "bn.statistics"
"""Parts of a signature: γ and β, (2, N), and running mean and variance, (2, N), of all BN channels."""
BATCH = 16
"""Samples of one step. Training graphs may have this size for ever; fewer are filled up with zeros."""
Loss = Callable[[Array], tuple[float, Array]]
"""Logits (n, classes) → the loss, and its gradient by the logits, float32."""


@dataclasses.dataclass(frozen=True)
class Point:
    """Where learning stands: a complete signature's numbers."""

    parts: Mapping[str, Array]
    """All parts, float32 or float64; those that follow from others do not count."""
    follows: frozenset[str] = frozenset()
    """Parts that follow from others and the templates, and so move with them."""
    task: str = ""
    """Whose network it is; where a kind's tasks have networks of their own, learners need to know."""

    def with_parts(self, parts: Mapping[str, Array]) -> Self:
        """The same with other numbers."""
        return dataclasses.replace(self, parts={**self.parts, **parts})

    def owning(self, *names: str) -> Self:
        """The same with these parts of its own."""
        return dataclasses.replace(self, follows=self.follows - set(names))

    def rounded(self) -> Self:
        """The same in float32, as a signature holds it: what is scored is then what is returned."""
        floats = {name: array for name, array in self.parts.items() if array.dtype.kind == "f"}
        return self.with_parts({name: np.asarray(array, dtype=np.float32) for name, array in floats.items()})

    @property
    def finite(self) -> bool:
        """Whether a signature may hold these numbers."""
        return all(bool(np.isfinite(array).all()) for array in self.parts.values())


@dataclasses.dataclass(frozen=True)
class Moments:
    """What one BN sees of samples, about the given mean."""

    means: Array
    """s̄, shape (n, channels), float32."""
    squares: Array
    """s², shape (n, channels), float32."""

    @property
    def mean(self) -> Array:
        """Of all samples, shape (channels,), float64."""
        result: Array = self.means.mean(axis=0, dtype=np.float64)
        return result

    @property
    def square(self) -> Array:
        """Of all samples, shape (channels,), float64."""
        result: Array = self.squares.mean(axis=0, dtype=np.float64)
        return result


Choose = Callable[[slice, Moments], tuple[Array, Array]]
"""A BN's place among the N channels, and its moments → the mean, taken from the given one, and the variance to normalise by."""


@dataclasses.dataclass(frozen=True)
class Pass:
    """What comes of a forward pass with chosen statistics."""

    statistics: Array
    """What every BN was normalised by, shape (2, N), float32."""
    logits: Array
    """Shape (n, classes), float32."""
    embeddings: Array
    """What the logits layer sees, shape (n, embedding), float32."""


class Learner(Protocol):
    """Runs a bundle's network for learning. Safe to use from several threads. Samples ``x`` are (n, …), float32."""

    @property
    def bundle(self) -> Bundle:
        """What it runs."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Adam's learning rate for each part that has a gradient, the logits layer's excepted."""

    @property
    def normalises(self) -> bool:
        """Whether it is a ``Normalising`` one."""

    def point(self, signature: Signature, own: Collection[str] = ()) -> Point:
        """A signature's numbers; parts named in ``own`` are going to move by themselves, also where they follow from others."""

    def softened(self, point: Point, moving: Collection[str]) -> Point:
        """The same, changed as little as is needed to give every one of the moving parts a gradient."""

    def logits(self, point: Point, x: Array) -> Array:
        """Logits of samples, shape (n, classes), float32."""

    def embeddings(self, point: Point, x: Array) -> Array:
        """What the logits layer sees, shape (n, embedding), float32."""

    def gradient(
        self, point: Point, x: Array, loss: Loss, *, head_only: bool = False
    ) -> tuple[float, dict[str, Array]]:
        """A loss, and its gradients.

        Args:
            point: Where.
            x: Samples.
            loss: The loss.
            head_only: Whether the logits layer's gradients are enough, which need no backward pass.

        Returns:
            What ``loss`` gave first; and part → its gradient, float64.
        """


class Normalising(Learner, Protocol):
    """A learner of a network with BN."""

    def normalised(self, point: Point, x: Array, choose: Choose) -> Pass:
        """A forward pass with the statistics that ``choose`` makes of what each BN sees; called once for every BN, in order."""

    def statistics(self, point: Point, x: Array, *, alpha: float = 1.0) -> Array:
        """Statistics of samples, blended with the point's, shape (2, N): (1 - α) m + α mean(u), and the variances alike."""


def normalising(learner: Learner) -> Normalising:
    """The learner, which has BN; ``UsageError`` if it has none."""
    if not learner.normalises:
        raise UsageError(
            f"a network of kind {learner.bundle.spec.kind!r} has no BN, and so no statistics that could be taken anew; "
            "choose a way that moves other parts"
        )
    return cast(Normalising, learner)
