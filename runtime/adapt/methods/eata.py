"""EATA: learns from reliable and non-redundant samples only, with a Fisher regulariser that keeps weights important to the base.

    S = {i: H(pᵢ) < E₀  and  |cos(pᵢ, p̄)| < ε},       p̄ ← 0.9 p̄ + 0.1 mean of S
    L = Σ_S exp(E₀ - H(pᵢ)) H(pᵢ) / |S|  +  β Σ_j F_j (w_j - w_j⁰)²

E₀ = 0.4 ln C; ε = 0.4 for up to 20 classes, 0.1 for up to 200, 0.05 above; β = 1 up to 200 classes, 2000 above. F is the Fisher
information of the base's training samples, measured by ``isoform compile`` (``isoform.runtime.learn.source``): for the mixture L·K
numbers. Source: Niu et al. 2022, "Efficient test-time model adaptation without forgetting", sections 3.1 and 3.2, and its code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from isoform.runtime.adapt.losses import entropies, entropy_loss
from isoform.runtime.adapt.method import Context
from isoform.runtime.adapt.methods.tent import Gradient
from isoform.runtime.arrays import Array, softmax
from isoform.runtime.learn.learner import Point

__all__ = ["Eata"]


class Eata(Gradient):
    """Tent on reliable and different samples, held near the start."""

    def __init__(self, context: Context, parts: Sequence[str] = ("bn",), lr: float = 1e-3) -> None:
        super().__init__(context, parts, lr)
        classes = context.classes
        self._margin = 0.4 * math.log(classes)
        self._redundant = 0.4 if classes <= 20 else 0.1 if classes <= 200 else 0.05
        self._hold = 1.0 if classes <= 200 else 2000.0

    def reset(self, point: Point) -> None:
        """Set the point, and forget the stream."""
        super().reset(point)
        self._mean: Array | None = None

    def learn(self, x: Array, logits: Array) -> None:
        """Take one step on the selected samples, if there are any."""
        p = softmax(logits)
        chosen = entropies(p) < self._margin
        if self._mean is not None:
            norms = np.linalg.norm(p, axis=1) * np.linalg.norm(self._mean)
            chosen &= np.abs(p @ self._mean) < self._redundant * norms
        if not chosen.any():
            return
        mean = p[chosen].mean(axis=0)
        self._mean = mean if self._mean is None else 0.9 * self._mean + 0.1 * mean

        def loss(logits: Array) -> tuple[float, Array]:
            weights = np.exp(self._margin - entropies(softmax(logits)))  # constants, as in the paper's code
            return entropy_loss(logits, weights=weights)

        def anchored(name: str) -> Array:
            fisher = self.context.facts.fisher[name].astype(np.float64)
            result: Array = 2 * self._hold * fisher * (self.point.parts[name] - self.anchor.parts[name])
            return result

        self.step(np.ascontiguousarray(x[chosen]), loss, more=anchored)
