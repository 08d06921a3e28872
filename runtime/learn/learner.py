"""Interface between learning or adaptation and the kinds: what they need of a network.

    Point        the parameters of a complete signature
    Learner      logits, embeddings, losses and gradients at a point
    Normalising  a learner of a network with BN, which can also compute BN statistics

A kind with BN must name its parts ``AFFINE`` and ``STATISTICS``, and ``COEFFICIENTS`` if it has those.
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
from isoform.runtime.kind import WHOLE

__all__ = [
    "AFFINE",
    "BATCH",
    "COEFFICIENTS",
    "STATISTICS",
    "Directions",
    "Learner",
    "Moments",
    "Normalising",
    "Pass",
    "Point",
    "normalising",
]

AFFINE, STATISTICS, COEFFICIENTS = "bn.affine", "bn.statistics", "bn.coefficients"
"""Parts of a signature: γ and β, (2, N), and running mean and variance, (2, N), of all BN channels; and coefficients of directions that the
bundle stores, (D,), which stand for statistics in few numbers.
"""
BATCH = 16
"""Samples per step. Compiled training graphs have this fixed batch size; smaller batches are padded with zeros."""
Loss = Callable[[Array], tuple[float, Array]]
"""Logits (n, classes) → the loss, and its gradient with respect to the logits, float32."""


@dataclasses.dataclass(frozen=True)
class Point:
    """The parameters of a complete signature during learning. Immutable."""

    parts: Mapping[str, Array]
    """All parts, float32 or float64; derived parts are ignored."""
    follows: frozenset[str] = frozenset()
    """Derived parts: computed from other parts and the templates, and changing with them."""
    task: str = ""
    """The task, for kinds with a separate network per task."""
    whole: frozenset[str] = frozenset()
    """Parts of whole numbers that have a gradient: any numbers while they are trained, rounded in a signature."""

    def with_parts(self, parts: Mapping[str, Array]) -> Self:
        """Return a copy with other values of some parts."""
        return dataclasses.replace(self, parts={**self.parts, **parts})

    def owning(self, *names: str) -> Self:
        """Return a copy in which these parts are independent, no longer derived."""
        return dataclasses.replace(self, follows=self.follows - set(names))

    def rounded(self) -> Self:
        """Return a copy as a signature stores it, in float32 or whole numbers, so that the scored values are the returned values."""
        # floats only: a signature refuses bits and whole numbers that have become floats
        floats = {name: array for name, array in self.parts.items() if array.dtype.kind == "f"}
        if not all(np.isfinite(floats[name]).all() for name in self.whole & floats.keys()):
            return self  # no whole number stands for it; ``finite`` says so
        return self.with_parts(
            {
                name: np.rint(np.clip(array, -WHOLE, WHOLE)).astype(np.int64)
                if name in self.whole
                else np.asarray(array, dtype=np.float32)
                for name, array in floats.items()
            }
        )

    @property
    def finite(self) -> bool:
        """Whether all values are finite, as a signature requires."""
        return all(bool(np.isfinite(array).all()) for array in self.parts.values())


@dataclasses.dataclass(frozen=True)
class Moments:
    """Moments of one BN layer's input per sample, about the given mean."""

    means: Array
    """s̄, shape (n, channels), float32."""
    squares: Array
    """s², shape (n, channels), float32."""

    @property
    def mean(self) -> Array:
        """Mean over all samples, shape (channels,), float64."""
        result: Array = self.means.mean(axis=0, dtype=np.float64)
        return result

    @property
    def square(self) -> Array:
        """Mean square over all samples, shape (channels,), float64."""
        result: Array = self.squares.mean(axis=0, dtype=np.float64)
        return result


@dataclasses.dataclass(frozen=True, eq=False)
class Directions:
    """Directions of BN's statistics, which the coefficients in ``COEFFICIENTS`` are of."""

    rows: Array
    """Shape (D, 2, N), float32: for every direction and channel, what it adds to the mean, in deviations, and to the logarithm of the
    deviation. Of such a length that the changes met in training have coefficients of mean square 1."""
    step: float
    """The coefficient that the whole number 1 in a signature stands for."""


Choose = Callable[[slice, Moments], tuple[Array, Array]]
"""A BN layer's slice of the N channels, and its moments → the mean (relative to the given one) and the variance to normalise with."""


@dataclasses.dataclass(frozen=True)
class Pass:
    """Result of a forward pass with chosen statistics."""

    statistics: Array
    """Mean and variance that each BN layer used, shape (2, N), float32."""
    logits: Array
    """Shape (n, classes), float32."""
    embeddings: Array
    """Input of the logits layer, shape (n, embedding), float32."""


class Learner(Protocol):
    """Runs a bundle's network for learning. Thread-safe. Samples ``x`` are (n, …), float32."""

    @property
    def bundle(self) -> Bundle:
        """The bundle."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Adam's learning rate for each part that has a gradient, except the logits layer."""

    def normalises(self, task: str) -> bool:
        """Return whether a task's network has BN, and the learner implements ``Normalising`` for it."""

    def backpropagates(self, task: str) -> bool:
        """Return whether gradients of a task's network come from a backward pass; else they are estimated by forward passes alone."""

    def point(self, signature: Signature, own: Collection[str] = ()) -> Point:
        """Return a signature's parameters; parts named in ``own`` will be trained, so they are independent even if derived before."""

    def softened(self, point: Point, moving: Collection[str]) -> Point:
        """Return the point with the smallest change that gives every part in ``moving`` a gradient."""

    def logits(self, point: Point, x: Array) -> Array:
        """Return logits of samples, shape (n, classes), float32."""

    def embeddings(self, point: Point, x: Array) -> Array:
        """Return the input of the logits layer, shape (n, embedding), float32."""

    def gradient(
        self, point: Point, x: Array, loss: Loss, *, moving: Collection[str] | None = None
    ) -> tuple[float, dict[str, Array]]:
        """Return a loss and its gradients.

        Args:
            point: The parameters.
            x: Samples.
            loss: The loss function.
            moving: Parts whose gradients are needed; None for all that have one. Others may be returned too. Those of the logits layer alone
                take no backward pass.

        Returns:
            The loss; and part → gradient, float64.
        """


class Normalising(Learner, Protocol):
    """A learner of a network with BN."""

    @property
    def directions(self) -> Directions | None:
        """The bundle's directions of BN statistics; None if it has none."""

    def normalised(self, point: Point, x: Array, choose: Choose) -> Pass:
        """Run a forward pass whose BN statistics ``choose`` computes from each layer's moments; it is called once per BN layer, in order."""

    def statistics(self, point: Point, x: Array, *, alpha: float = 1.0) -> Array:
        """Return statistics of samples blended with the point's, shape (2, N): (1 - α) m + α mean(u), variances likewise."""

    def coefficients(self, point: Point, x: Array) -> Mapping[str, Array]:
        """Return the parts that stand for statistics of samples in few numbers, estimated from them; none if the bundle has no such part."""

    def settled(self, signature: Signature) -> Signature:
        """Return a signature that predicts the same, to rounding, and whose ``STATISTICS`` and ``AFFINE`` alone say how BN normalises: those
        can be replaced then. The given one if it is so already.
        """


def normalising(learner: Learner, task: str) -> Normalising:
    """Return the learner as ``Normalising``. Raises ``UsageError`` if the task's network has no BN."""
    if not learner.normalises(task):
        raise UsageError(
            f"the network of kind {learner.bundle.spec.kind!r} has no BN, so no statistics can be re-estimated; "
            "choose a method that changes other parts, such as t3a"
        )
    return cast(Normalising, learner)
