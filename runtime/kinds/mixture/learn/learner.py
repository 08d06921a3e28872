"""A bundle, ready to learn: logits, loss and gradients of a signature's parts, and BN statistics. Safe to use from several threads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Self

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.mixture.fold import fold, shared_affine
from isoform.runtime.kinds.mixture.learn.blocks import open_blocks
from isoform.runtime.kinds.mixture.learn.chain import signature_gradient
from isoform.runtime.kinds.mixture.learn.network import FoldedNetwork
from isoform.runtime.kinds.mixture.learn.normalised import Choose, Pass, normalised_pass
from isoform.runtime.kinds.mixture.learn.statistics import estimate_statistics

__all__ = ["Learner", "Point"]

CHUNK = 64
"""Samples per forward pass without gradients: what bounds its memory."""


@dataclasses.dataclass(frozen=True)
class Point:
    """Where learning stands: a complete signature's numbers."""

    parts: Mapping[str, Array]
    """All five parts, float32 or float64; ``bn.affine`` only counts if it is ``own``."""
    own_affine: bool = True
    """False where γ and β come from the templates by ξ (``affine = "mixed"``), and so move with it."""

    def with_parts(self, parts: Mapping[str, Array]) -> Self:
        """The same with other numbers."""
        return dataclasses.replace(self, parts={**self.parts, **parts})

    def rounded(self) -> Self:
        """The same in float32, as a signature holds it: what is scored is then what is returned."""
        return self.with_parts({name: np.asarray(array, dtype=np.float32) for name, array in self.parts.items()})

    @property
    def finite(self) -> bool:
        """Whether a signature may hold these numbers."""
        return all(bool(np.isfinite(array).all()) for array in self.parts.values())


class Learner:
    """Runs a bundle's training graphs.

    Args:
        bundle: Templates and base signatures.
        graphs: ``compiled/training/``'s files: name → content.
        threads: Threads per run, 0 to let ONNX Runtime choose.

    Raises:
        EngineError: If ONNX Runtime refuses a graph.
    """

    def __init__(self, bundle: Bundle, graphs: Mapping[str, bytes], *, threads: int) -> None:
        self.bundle = bundle
        self._blocks = open_blocks(bundle.spec, graphs, threads=threads)
        self._network = FoldedNetwork(bundle.spec, self._blocks)

    def logits(self, point: Point, x: Array) -> Array:
        """Logits of samples, shape (n, classes), float32."""
        weights = self._fold(point)
        chunks = [self._network.forward(weights, x[i : i + CHUNK], keep=False)[0] for i in range(0, len(x), CHUNK)]
        return np.concatenate(chunks)

    def embeddings(self, point: Point, x: Array) -> Array:
        """What the logits layer sees, shape (n, embedding), float32."""
        weights = self._fold(point)
        chunks = [
            self._network.forward(weights, x[i : i + CHUNK], keep=False)[1].features for i in range(0, len(x), CHUNK)
        ]
        return np.concatenate(chunks)

    def gradient(
        self, point: Point, x: Array, loss: Callable[[Array], tuple[float, Array]], *, head_only: bool = False
    ) -> tuple[float, dict[str, Array]]:
        """A loss, and its gradients.

        Args:
            point: Where.
            x: Samples, shape (n, channels, height, width), float32.
            loss: Logits (n, classes) → the loss, and its gradient by the logits, float32.
            head_only: Whether the logits layer's gradients are enough, which need no backward pass through the blocks.

        Returns:
            What ``loss`` gave first; and gradients as ``signature_gradient`` returns them.
        """
        folded = self._fold(point)
        logits, kept = self._network.forward(folded, x, keep=not head_only)
        value, g = loss(logits)
        if head_only:
            return value, {
                "logits.weight": (g.T @ kept.features).astype(np.float64),
                "logits.bias": g.sum(axis=0, dtype=np.float64),
            }
        gradients = self._network.backward(folded, kept, g)
        bundle = self.bundle
        found = signature_gradient(
            bundle.spec, bundle.tensors, self._complete(point), gradients, own_affine=point.own_affine
        )
        return value, found

    def normalised(self, point: Point, x: Array, choose: Choose) -> Pass:
        """A forward pass with BN's statistics as ``choose`` makes them; see ``normalised_pass``."""
        bundle = self.bundle
        return normalised_pass(
            bundle.spec, bundle.tensors, self._complete(point), x, run_on=self._blocks, choose=choose
        )

    def statistics(self, point: Point, x: Array, *, alpha: float = 1.0) -> Array:
        """BN statistics of samples, blended with the point's, shape (2, N); see ``estimate_statistics``."""
        bundle = self.bundle
        return estimate_statistics(
            bundle.spec, bundle.tensors, self._complete(point), x, run_on=self._blocks, alpha=alpha
        ).statistics

    def _complete(self, point: Point) -> dict[str, Array]:
        parts = dict(point.parts)
        if not point.own_affine:
            parts["bn.affine"] = shared_affine(self.bundle.spec, self.bundle.tensors, parts["mixture"])
        return parts

    def _fold(self, point: Point) -> dict[str, Array]:
        return fold(self.bundle.spec, self.bundle.tensors, self._complete(point))
