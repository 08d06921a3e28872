"""The loss of learning: mean cross-entropy of labelled samples, and its gradient.

L = -Σ_i w_i log p_i,label_i,   p = softmax(logits),   Σ w = 1
dL/d logits_ic = w_i (p_ic - [c = label_i])
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.mixture import softmax
from isoform.runtime.spec import Array

__all__ = ["cross_entropy"]


def cross_entropy(logits: Array, labels: Array, *, weights: Array | None = None) -> tuple[float, Array]:
    """Mean cross-entropy and its gradient.

    Args:
        logits: Shape (n, classes), floating point.
        labels: Indices of classes, shape (n,), whole numbers.
        weights: Share of each sample, shape (n,), sums to 1; None for equal ones.

    Returns:
        The loss in nats; and dL/d logits, of the logits' shape, float32.
    """
    n = len(logits)
    share = np.full(n, 1 / n) if weights is None else weights
    rows = np.arange(n)
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    loss = float(share @ (np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, labels]))
    g = softmax(logits)
    g[rows, labels] -= 1
    return loss, (share[:, None] * g).astype(np.float32)
