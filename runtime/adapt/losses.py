"""Unsupervised losses, and their gradients with respect to the logits.

With p = softmax(logits) of a sample, H(p) = -Σ_c p_c log p_c, and p̄ the mean over the batch:

    entropy            mean H(pᵢ)                                         Wang et al. 2021, "Tent", section 3.1
    information        mean H(pᵢ) + (1 - κ) Σ_c p̄_c log q_c                Liang et al. 2020, "SHOT", equation 3; κ as below
    likelihood ratio   mean wᵢ · -Σ_c p_c log(p_c / (1 - p_c))            Marsden et al. 2024, "ROID", equation 4; p ≤ 0.99

The second term of the information loss is -H(p̄) with one of the two p̄ replaced by q, the mean prediction over more samples than the
batch has: it discourages classes that were predicted too often recently.

The concentration κ of predictions is the similarity of two different samples' predictions: 0 for a uniform class distribution, 1 if all
are the same, about 1/m if m of many classes occur. It is normalised by S, the similarity of a prediction with itself, because
uncertain predictions are less similar even if there is only one class. With n samples:

    S = mean Σ_c p_ic²,      U = (n Σ_c p̄_c² - S) / (n - 1),      κ = (C U - 1) / (C S - 1),    within 0…1

Gradients go through the softmax by dL/dz = p ∘ (dL/dp - Σ_c p_c dL/dp_c). All in float64.
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.arrays import Array, softmax

__all__ = ["concentration", "entropies", "entropy_loss", "information_loss", "likelihood_ratio_loss"]

CONFIDENT = 0.99  # at p = 1 the ratio and its slope are infinite
"""Maximum probability in the likelihood ratio."""


def entropies(p: Array) -> Array:
    """Return H of every row, in nats, shape (n,); 0 log 0 is 0."""
    result: Array = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
    return result


def concentration(mean: Array, itself: float, samples: float) -> float:
    """Return κ, 0 to 1; 1 for a single sample, which has nothing to compare with.

    Args:
        mean: p̄, shape (classes,).
        itself: S.
        samples: n, the number of samples that both represent.
    """
    classes = len(mean)
    if samples <= 1 or classes < 2:
        return 1.0
    alike = (samples * float((mean**2).sum()) - itself) / (samples - 1)
    most = classes * itself - 1
    # if every prediction is uniform, both are 0
    return min(1.0, max(0.0, (classes * alike - 1) / most)) if most > 1e-9 else 0.0


def _through_softmax(p: Array, slope: Array) -> Array:
    result: Array = p * (slope - (p * slope).sum(axis=1, keepdims=True))
    return result.astype(np.float32)  # what the training graphs read


def entropy_loss(logits: Array, *, weights: Array | None = None) -> tuple[float, Array]:
    """Return the weighted mean entropy and its gradient.

    Args:
        logits: Shape (n, classes).
        weights: Weights of the samples, shape (n,); the weighted sum is divided by n. None for weights of 1.

    Returns:
        The loss in nats, and dL/d logits, float32.
    """
    p = softmax(logits)
    w = np.ones(len(p)) if weights is None else weights
    slope = -(np.log(np.maximum(p, 1e-300)) + 1)
    return float((w * entropies(p)).mean()), _through_softmax(p, slope * (w / len(p))[:, None])


def information_loss(logits: Array, *, prior: Array | None = None, kappa: float = 0.0) -> tuple[float, Array]:
    """Return the information loss, which favours certain predictions and uniform classes, and its gradient.

    Args:
        logits: Shape (n, classes).
        prior: q, shape (classes,); None for the batch's mean.
        kappa: κ, concentration of the stream's classes, 0 to 1.

    Returns:
        The loss in nats, and dL/d logits, float32; q is treated as a constant.
    """
    p = softmax(logits)
    log_q = np.log(np.maximum(p.mean(axis=0) if prior is None else prior, 1e-12))
    loss = float(entropies(p).mean() + (1 - kappa) * p.mean(axis=0) @ log_q)
    slope = (1 - kappa) * log_q - (np.log(np.maximum(p, 1e-300)) + 1)
    return loss, _through_softmax(p, slope / len(p))


def likelihood_ratio_loss(logits: Array, *, weights: Array | None = None) -> tuple[float, Array]:
    """Return the soft likelihood ratio loss and its gradient, as ``entropy_loss``; its slope does not vanish for certain predictions."""
    p = softmax(logits)
    w = np.ones(len(p)) if weights is None else weights
    clipped = np.clip(p, 1e-12, CONFIDENT)
    ratio = np.log(clipped / (1 - clipped))
    inside = (p > 1e-12) & (p < CONFIDENT)
    slope = -(ratio + np.where(inside, 1 / (1 - clipped), 0.0))
    return float((w * -(p * ratio).sum(axis=1)).mean()), _through_softmax(p, slope * (w / len(p))[:, None])
