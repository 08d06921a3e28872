"""Cross-entropy loss of labelled samples, and its gradient.

L = -Σ_i w_i log p_i,label_i,   p = softmax(logits),   Σ w = 1
dL/d logits_ic = w_i (p_ic - [c = label_i])
"""

from __future__ import annotations

import math

import numpy as np

from isoform.runtime.arrays import Array, softmax

__all__ = ["cross_entropy", "scored"]


def cross_entropy(logits: Array, labels: Array, *, weights: Array | None = None) -> tuple[float, Array]:
    """Return the mean cross-entropy and its gradient.

    Args:
        logits: Shape (n, classes), floating point.
        labels: Class indices, shape (n,), integers.
        weights: Weight of each sample, shape (n,), sums to 1; None for equal weights.

    Returns:
        The loss in nats; and dL/d logits, shape (n, classes), float32.
    """
    n = len(logits)
    share = np.full(n, 1 / n) if weights is None else weights
    rows = np.arange(n)
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    loss = float(share @ (np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, labels]))
    g = softmax(logits)
    g[rows, labels] -= 1
    return loss, (share[:, None] * g).astype(np.float32)


def scored(logits: Array, labels: Array, *, weights: Array) -> tuple[float, Array]:
    """Return loss and correctness, with non-finite logits counted as the worst result.

    Args:
        logits: Shape (n, classes).
        labels: Class indices, shape (n,).
        weights: Weight of each sample, shape (n,), sums to 1.

    Returns:
        The loss in nats, infinite if it is not finite; and which samples are correct, shape (n,), bool: False if a logit is not finite.
    """
    # NaN compares false with everything: a NaN loss could pass for the best one, and argmax of NaN would return its index as the class.
    right = (logits.argmax(axis=1) == labels) & np.isfinite(logits).all(axis=1)
    loss, _ = cross_entropy(logits, labels, weights=weights)
    return loss if math.isfinite(loss) else math.inf, right
