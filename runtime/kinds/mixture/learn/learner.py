"""The ``Normalising`` learner of kind ``mixture``, with the training graphs written by ``isoform compile``."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.inheritance import derived
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD
from isoform.runtime.kinds.mixture.directions import STEP
from isoform.runtime.kinds.mixture.fold import fold, shared_affine
from isoform.runtime.kinds.mixture.learn.blocks import open_blocks
from isoform.runtime.kinds.mixture.learn.chain import signature_gradient
from isoform.runtime.kinds.mixture.learn.network import FoldedNetwork
from isoform.runtime.kinds.mixture.learn.normalised import normalised_pass
from isoform.runtime.kinds.mixture.learn.soft import softened
from isoform.runtime.kinds.mixture.learn.statistics import estimate_statistics
from isoform.runtime.kinds.mixture.normalisation import bn_directions, nearest, own_statistics
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.learner import Choose, Directions, Loss, Pass, Point

__all__ = ["MixtureLearner"]

CHUNK = 64  # bounds memory
"""Samples per forward pass without gradients."""


class MixtureLearner:
    """Runs a bundle's training graphs.

    Args:
        bundle: The bundle.
        graphs: The files of ``compiled/training/``: name → content.
        threads: Threads per run; 0 lets ONNX Runtime choose.

    Raises:
        EngineError: If ONNX Runtime rejects a graph.
    """

    rates: Mapping[str, float] = {
        "mixture": 0.05,
        "delta": 0.003 / STEP,
        "bn.coefficients": 0.1 / STEP,
        "bn.affine": 5e-3,
    }
    """The rate of ξ's logits is 10 times that of BN; Compositional Models, section 4, uses 10 to 100 times."""

    def __init__(self, bundle: Bundle, graphs: Mapping[str, bytes], *, threads: int) -> None:
        self.bundle = bundle
        # whole numbers, but they have a gradient
        self._whole = frozenset(name for name, part in bundle.kind.parts.items() if part.numbers == "integer")
        self._spec: NetworkSpec = bundle.network.spec
        self._blocks = open_blocks(self._spec, graphs, threads=threads)
        self._network = FoldedNetwork(self._spec, self._blocks)

    def normalises(self, task: str) -> bool:
        """As ``Learner.normalises``: always."""
        return True

    def backpropagates(self, task: str) -> bool:
        """As ``Learner.backpropagates``: always."""
        return True

    def point(self, signature: Signature, own: Collection[str] = ()) -> Point:
        """As ``Learner.point``: γ and β are derived from the templates by ξ if ``affine`` is ``mixed`` and the signature has none."""
        follows = self._spec.affine == "mixed" and "bn.affine" not in {*own, *signature.parts}
        parts = dict(self.bundle.resolve(signature).parts)
        for name in self._whole & set(own):
            parts[name] = parts[name].astype(np.float64)
        return Point(parts, frozenset({"bn.affine"} if follows else ()), signature.task, self._whole)

    def softened(self, point: Point, moving: Collection[str]) -> Point:
        """As ``Learner.softened``: a discrete mixture has gradient 0."""
        return point.with_parts({"mixture": softened(point.parts["mixture"])}) if "mixture" in moving else point

    def logits(self, point: Point, x: Array) -> Array:
        """As ``Learner.logits``."""
        weights = self._fold(point)
        chunks = [self._network.forward(weights, x[i : i + CHUNK], keep=False)[0] for i in range(0, len(x), CHUNK)]
        return np.concatenate(chunks)

    def embeddings(self, point: Point, x: Array) -> Array:
        """As ``Learner.embeddings``."""
        weights = self._fold(point)
        chunks = [
            self._network.forward(weights, x[i : i + CHUNK], keep=False)[1].features for i in range(0, len(x), CHUNK)
        ]
        return np.concatenate(chunks)

    def gradient(
        self, point: Point, x: Array, loss: Loss, *, moving: Collection[str] | None = None
    ) -> tuple[float, dict[str, Array]]:
        """As ``Learner.gradient``; gradients as ``signature_gradient`` returns them."""
        folded = self._fold(point)
        alone = moving is not None and {*HEAD} >= {*moving}
        logits, kept = self._network.forward(folded, x, keep=not alone)
        value, g = loss(logits)
        if alone:
            return value, {
                "logits.weight": (g.T @ kept.features).astype(np.float64),
                "logits.bias": g.sum(axis=0, dtype=np.float64),
            }
        gradients = self._network.backward(folded, kept, g)
        bundle = self.bundle
        found = signature_gradient(
            self._spec, bundle.tensors, self._complete(point), gradients, own_affine=not point.follows
        )
        return value, found

    @property
    def directions(self) -> Directions | None:
        """As ``Normalising.directions``."""
        return Directions(bn_directions(self.bundle.tensors), STEP) if self._spec.bn_directions else None

    def normalised(self, point: Point, x: Array, choose: Choose) -> Pass:
        """As ``Normalising.normalised``; see ``normalised_pass``."""
        tensors, parts = self.bundle.tensors, self._settled(self._complete(point))
        return normalised_pass(self._spec, tensors, parts, x, run_on=self._blocks, choose=choose)

    def statistics(self, point: Point, x: Array, *, alpha: float = 1.0) -> Array:
        """As ``Normalising.statistics``, shape (2, N); see ``estimate_statistics``."""
        tensors, parts = self.bundle.tensors, self._settled(self._complete(point))
        return estimate_statistics(self._spec, tensors, parts, x, run_on=self._blocks, alpha=alpha).statistics

    def coefficients(self, point: Point, x: Array) -> dict[str, Array]:
        """As ``Normalising.coefficients``: those of the samples' statistics; see ``nearest``."""
        if not self._spec.bn_directions:
            return {}
        found, given = self.statistics(point, x), point.parts["bn.statistics"]
        return {"bn.coefficients": nearest(self._spec, self.bundle.tensors, given, found, samples=len(x))}

    def settled(self, signature: Signature) -> Signature:
        """As ``Normalising.settled``."""
        parts = self.bundle.resolve(signature).parts
        found = self._settled(parts)
        if found is parts:
            return signature
        return derived(self.bundle, signature, {name: found[name] for name in ("bn.statistics", "bn.coefficients")})

    def _settled(self, parts: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the parts with ``bn.coefficients`` of 0 and statistics to the same effect; the given ones if they are 0 already."""
        if "bn.coefficients" not in parts or not parts["bn.coefficients"].any():
            return parts
        statistics = own_statistics(self._spec, self.bundle.tensors, parts)
        return {**parts, "bn.statistics": statistics, "bn.coefficients": np.zeros(self._spec.bn_directions, np.int64)}

    def _complete(self, point: Point) -> dict[str, Array]:
        parts = dict(point.parts)
        if point.follows:
            # a step may have moved ξ, which γ and β follow
            parts["bn.affine"] = shared_affine(self._spec, self.bundle.tensors, parts["mixture"])
        return parts

    def _fold(self, point: Point) -> dict[str, Array]:
        return fold(self._spec, self.bundle.tensors, self._complete(point))
