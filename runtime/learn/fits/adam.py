"""Adam with one learning rate per part: a signature's mixture needs rates 10 to 100 times those of BN and the logits layer.

    m ← β₁ m + (1 - β₁) g      v ← β₂ v + (1 - β₂) g²      p ← p - lr · m̂ / (√v̂ + ε),   m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ)

In float64. Source: Kingma and Ba 2015, algorithm 1; the rates' ratio: Compositional Models, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["Adam"]


class Adam:
    """The optimiser's state: moments of every part, and the number of steps.

    Args:
        rates: Part → learning rate; other parts are not changed.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        epsilon: Added to the root of the second moment.
    """

    def __init__(
        self, rates: Mapping[str, float], *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        self._rates, self._betas, self._epsilon = dict(rates), (beta1, beta2), epsilon
        self._moments: dict[str, tuple[Array, Array]] = {}
        self._steps = 0

    def step(
        self, parts: Mapping[str, Array], gradients: Mapping[str, Array], *, scale: float = 1.0
    ) -> dict[str, Array]:
        """Take one step.

        Args:
            parts: Current values.
            gradients: Gradient of every part with a rate, of the part's shape.
            scale: Factor for all rates, for a schedule.

        Returns:
            All parts; those with a rate are new arrays, float64.
        """
        self._steps += 1
        beta1, beta2 = self._betas
        result = dict(parts)
        for name, rate in self._rates.items():
            g = gradients[name]
            m, v = self._moments.get(name, (np.zeros_like(g), np.zeros_like(g)))
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            self._moments[name] = m, v
            step = m / (1 - beta1**self._steps) / (np.sqrt(v / (1 - beta2**self._steps)) + self._epsilon)
            result[name] = parts[name] - rate * scale * step
        return result
