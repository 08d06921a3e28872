"""The loss of learning: mean cross-entropy of labelled samples, and its gradient.

    L = -Σ_i w_i Σ_c t_ic log p_ic,   p = softmax(logits),   t_ic = (1 - ε) [c = label_i] + ε / classes,   Σ w = 1
    dL/d logits_ic = w_i (p_ic - t_ic)

ε is label smoothing (Szegedy et al. 2016, section 7).
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.mixture import softmax
from isoform.runtime.spec import Array

__all__ = ["cross_entropy"]


def cross_entropy(
    logits: Array, labels: Array, *, smoothing: float = 0.0, weights: Array | None = None
) -> tuple[float, Array]:
    """Mean cross-entropy and its gradient.

    Args:
        logits: Shape (n, classes), floating point.
        labels: Indices of classes, shape (n,), whole numbers.
        smoothing: ε, 0 to 1.
        weights: Share of each sample, shape (n,), sums to 1; None for equal ones.

    Returns:
        The loss in nats; and dL/d logits, of the logits' shape, float32.
    """
    n, classes = logits.shape
    share = np.full(n, 1 / n) if weights is None else weights
    p = softmax(logits)
    target = np.full((n, classes), smoothing / classes)
    target[np.arange(n), labels] += 1 - smoothing
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -float(share @ (target * log_p).sum(axis=1))
    return loss, (share[:, None] * (p - target)).astype(np.float32)
