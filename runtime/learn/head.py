"""Learning for any kind and any engine: only the logits layer is trained, on the network's embeddings.

The embeddings come from the engine itself, with the identity as logits layer: logits = 1 · e + 0 equal the embeddings e, bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.learner import Loss, Point
from isoform.runtime.predictor import Predictor

__all__ = ["HeadLearner"]


class HeadLearner:
    """A ``Learner`` without a backward pass.

    Args:
        predictor: Runs the bundle. Signatures made for embeddings are removed from its engine's cache.
    """

    rates: Mapping[str, float] = {}
    normalises = False

    def __init__(self, predictor: Predictor) -> None:
        self._predictor, self.bundle = predictor, predictor.bundle

    def point(self, signature: Signature, own: Collection[str] = ()) -> Point:  # noqa: ARG002 - no part is derived here
        """As ``Learner.point``."""
        return Point(self.bundle.resolve(signature).parts, task=signature.task)

    def softened(self, point: Point, moving: Collection[str]) -> Point:  # noqa: ARG002
        """As ``Learner.softened``: a logits layer has a gradient everywhere."""
        return point

    def logits(self, point: Point, x: Array) -> Array:
        """As ``Learner.logits``."""
        weight, bias = (point.parts[name] for name in HEAD)
        result: Array = (self.embeddings(point, x) @ weight.T + bias).astype(np.float32)
        return result

    def embeddings(self, point: Point, x: Array) -> Array:
        """As ``Learner.embeddings``."""
        size = point.parts["logits.weight"].shape[1]
        head = {"logits.weight": np.eye(size, dtype=np.float32), "logits.bias": np.zeros(size, dtype=np.float32)}
        signature = Signature(
            parts={**point.parts, **head}, template=self.bundle.digest, task=point.task,
            labels=tuple(f"e{number}" for number in range(size)), kind=self.bundle.spec.kind,
        )  # fmt: skip
        try:
            return self._predictor.logits(x, signature)
        finally:  # each set of parts has its own digest: these entries would evict those of users
            self._predictor.forget(signature)

    def gradient(
        self, point: Point, x: Array, loss: Loss, *, head_only: bool = False
    ) -> tuple[float, dict[str, Array]]:
        """As ``Learner.gradient``. Raises ``UsageError`` unless ``head_only``."""
        if not head_only:
            raise UsageError(
                f"networks of kind {self.bundle.spec.kind!r} have no backward pass, so only the logits layer can be fitted: parts=['head']"
            )
        embeddings = self.embeddings(point, x)
        weight, bias = (point.parts[name] for name in HEAD)
        value, g = loss((embeddings @ weight.T + bias).astype(np.float32))
        return value, {
            "logits.weight": (g.T @ embeddings).astype(np.float64),
            "logits.bias": g.sum(axis=0, dtype=np.float64),
        }
