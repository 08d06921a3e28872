"""The logits layer alone: computed for new classes from a few embeddings, and trained for any kind and any engine.

For new classes it starts as a linear discriminant (Fisher 1936), with Σ the within-class covariance and d the size of the embedding:

    logits_c = μ_c Σ⁻¹ e - μ_c Σ⁻¹ μ_c / 2,        Σ = (1 - λ) S + λ (tr S / d) 1

The sample covariance S is singular with fewer samples than d; the shrinkage λ minimises the expected error of Σ, estimated from the
same samples (Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices"). With one sample per
class there is no S, so λ = 1: the nearest class mean.

Where a kind has no backward pass, this layer is all that is trained. Its embeddings come from the engine itself, with the identity as
logits layer: logits = 1 · e + 0 equal the embeddings e, bit for bit.
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

__all__ = ["HeadLearner", "discriminant", "shrunk"]


class HeadLearner:
    """A ``Learner`` without a backward pass.

    Args:
        predictor: Runs the bundle. Signatures made for embeddings are removed from its engine's cache.
    """

    rates: Mapping[str, float] = {}

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.bundle = predictor, predictor.bundle

    def normalises(self, task: str) -> bool:  # noqa: ARG002
        """As ``Learner.normalises``: never, statistics cannot be asked of an engine."""
        return False

    def backpropagates(self, task: str) -> bool:  # noqa: ARG002
        """As ``Learner.backpropagates``: what has a gradient here needs no backward pass."""
        return True

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
            return self.predictor.logits(x, signature)
        finally:  # each set of parts has its own digest: these entries would evict those of users
            self.predictor.forget(signature)

    def gradient(
        self, point: Point, x: Array, loss: Loss, *, moving: Collection[str] | None = None
    ) -> tuple[float, dict[str, Array]]:
        """As ``Learner.gradient``. Raises ``UsageError`` unless only the logits layer's are needed."""
        if moving is None or not {*HEAD} >= {*moving}:
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


def discriminant(embeddings: Array, labels: Array, classes: int) -> tuple[Array, Array]:
    """Compute a logits layer from the class means and the within-class covariance.

    Args:
        embeddings: Embeddings of the samples, shape (n, embedding).
        labels: Class indices, shape (n,); every class must occur.
        classes: Number of classes.

    Returns:
        Weight, shape (classes, embedding), and bias, shape (classes,), float64.
    """
    e = embeddings.astype(np.float64)
    means = np.stack([e[labels == label].mean(axis=0) for label in range(classes)])
    freedom = len(e) - classes
    if freedom:
        covariance, share = shrunk(e - means[labels])
        covariance *= len(e) / freedom  # unbiased: the means were estimated from the same samples
        spread = float(np.trace(covariance)) / e.shape[1]
    else:
        # with one sample per class nothing varies within a class: the spread of all sets the scale of the logits
        covariance, share, spread = np.zeros((e.shape[1], e.shape[1])), 1.0, float(((e - e.mean(axis=0)) ** 2).mean())
    within = (1 - share) * covariance
    # above 0 even if all embeddings are equal, else Σ has no inverse
    within[np.diag_indices_from(within)] += max(share * spread, 1e-6)
    weight = np.linalg.solve(within, means.T).T
    return weight, -(weight * means).sum(axis=1) / 2


def shrunk(rows: Array) -> tuple[Array, float]:
    """Return the covariance of centred rows (n, d), shape (d, d), and its shrinkage λ of Ledoit and Wolf, 0 to 1."""
    samples, size = rows.shape
    covariance: Array = rows.T @ rows / samples
    square = float((covariance**2).sum())
    off = square - float(np.trace(covariance)) ** 2 / size
    # Σ ‖x xᵀ - S‖² / n² = (mean ‖x‖⁴ - ‖S‖²) / n, without a d × d matrix per sample
    noise = (float(((rows**2).sum(axis=1) ** 2).sum()) / samples - square) / samples
    return covariance, min(1.0, noise / off) if off > 0 else 1.0
