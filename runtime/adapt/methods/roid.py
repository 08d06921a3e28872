"""ROID: weights certain and diverse samples higher, pulls the weights back to the start, and corrects for the batch's class prior.

    dᵢ = 1 - cos(pᵢ, p̄),   cᵢ = -H(pᵢ),   both scaled to 0…1 in the batch;    wᵢ = exp(3 dᵢ cᵢ), 0 where dᵢ is below its mean
    L = mean wᵢ · soft likelihood ratio (``losses.py``)
    w ← 0.99 w + 0.01 w⁰                                                                   after every step: weight ensembling
    output ∝ p ∘ (π + s) / (1 + C s),    π the batch's mean prediction, s = max(1/n, 1/C) / max π       prior correction

p̄ is the running mean of predictions, with momentum 0.9. The paper's symmetric cross-entropy of an augmented copy is omitted: it
doubles the cost.
Source: Marsden et al. 2024, "Universal test-time adaptation through weight ensembling, diversity weighting, and prior correction".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isoform.runtime.adapt.losses import entropies, likelihood_ratio_loss
from isoform.runtime.adapt.method import Context
from isoform.runtime.adapt.methods.tent import Gradient
from isoform.runtime.arrays import Array, softmax
from isoform.runtime.learn.learner import STATISTICS, Point

__all__ = ["Roid"]

PULL = 0.01
SHARP = 3.0


class Roid(Gradient):
    """Certain and diverse samples count more, held near the start."""

    def __init__(self, context: Context, parts: Sequence[str] = ("bn",), lr: float = 1e-3) -> None:
        super().__init__(context, parts, lr)

    def reset(self, point: Point) -> None:
        """Set the point, and forget the stream."""
        super().reset(point)
        self._mean = np.full(self.context.classes, 1 / self.context.classes)

    def outputs(self, x: Array, logits: Array) -> Array:
        """Return the logits corrected for the batch's class prior; those of a single sample are unchanged."""
        if len(x) < 2:
            return logits
        p = softmax(logits)
        prior = p.mean(axis=0)
        smooth = max(1 / len(x), 1 / len(prior)) / float(prior.max())
        result: Array = logits + np.log((prior + smooth) / (1 + len(prior) * smooth)).astype(np.float32)
        return result

    def learn(self, x: Array, logits: Array) -> None:
        """Take one weighted step, then pull the weights towards the start."""
        self.step(x, self._weighted)
        names = [name for name in self.moves if name != STATISTICS]
        here, start = self.point.parts, self.anchor.parts
        self.point = self.point.with_parts({name: here[name] + PULL * (start[name] - here[name]) for name in names})

    def _weighted(self, logits: Array) -> tuple[float, Array]:
        p = softmax(logits)
        cosine = p @ self._mean / (np.linalg.norm(p, axis=1) * np.linalg.norm(self._mean))
        diversity, certainty = _scaled(1 - cosine), _scaled(-entropies(p))
        weights = np.where(diversity < diversity.mean(), 0.0, np.exp(SHARP * diversity * certainty))
        self._mean = 0.9 * self._mean + 0.1 * p.mean(axis=0)
        return likelihood_ratio_loss(logits, weights=weights)


def _scaled(values: Array) -> Array:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.ones_like(values)
