"""Losses without labels: what unlabelled samples say of a network, and the gradient by their logits.

With p = softmax(logits) of every sample, H(p) = -Σ_c p_c log p_c, and p̄ the batch's mean:

    entropy            mean H(pᵢ)                                         Wang et al. 2021, "Tent", section 3.1
    information        mean H(pᵢ) + (1 - κ) Σ_c p̄_c log q_c                Liang et al. 2020, "SHOT", equation 3; κ as below
    likelihood ratio   mean wᵢ · -Σ_c p_c log(p_c / (1 - p_c))            Marsden et al. 2024, "ROID", equation 4; p ≤ 0.99

The second term of the information loss is -H(p̄) with one of its two p̄ replaced by q, the mean prediction of more samples than the
batch has: classes that were found too often of late are found less.

The concentration κ of predictions says how alike those of two different samples are: 0 for an even class distribution, 1 where all are
the same, about 1/m where m of many classes come. With S how alike a sample's prediction is to itself, because uncertain ones are
less so even where there is one class, and n samples:

    S = mean Σ_c p_ic²,      U = (n Σ_c p̄_c² - S) / (n - 1),      κ = (C U - 1) / (C S - 1),    within 0…1

Gradients go through the softmax by dL/dz = p ∘ (dL/dp - Σ_c p_c dL/dp_c). All in float64.
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.arrays import Array, softmax

__all__ = ["concentration", "entropies", "entropy_loss", "information_loss", "likelihood_ratio_loss"]

CONFIDENT = 0.99
"""A probability counts as at most this much in the likelihood ratio, so that its slope stays finite."""


def entropies(p: Array) -> Array:
    """H of every row, in nats, shape (n,); 0 log 0 is 0."""
    result: Array = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
    return result


def concentration(mean: Array, itself: float, samples: float) -> float:
    """κ, from 0 to 1; 1 for a single sample, which says nothing of others.

    Args:
        mean: p̄, shape (classes,).
        itself: S.
        samples: n that both stand for.
    """
    classes = len(mean)
    if samples <= 1 or classes < 2:
        return 1.0
    alike = (samples * float((mean**2).sum()) - itself) / (samples - 1)
    most = classes * itself - 1
    return min(1.0, max(0.0, (classes * alike - 1) / most)) if most > 1e-9 else 0.0


def _through_softmax(p: Array, slope: Array) -> Array:
    result: Array = p * (slope - (p * slope).sum(axis=1, keepdims=True))
    return result.astype(np.float32)


def entropy_loss(logits: Array, *, weights: Array | None = None) -> tuple[float, Array]:
    """Weighted mean entropy.

    Args:
        logits: Shape (n, classes).
        weights: Of the samples, shape (n,); the sum is divided by n whatever they are. None for 1.

    Returns:
        The loss in nats, and dL/d logits, float32.
    """
    p = softmax(logits)
    w = np.ones(len(p)) if weights is None else weights
    slope = -(np.log(np.maximum(p, 1e-300)) + 1)
    return float((w * entropies(p)).mean()), _through_softmax(p, slope * (w / len(p))[:, None])


def information_loss(logits: Array, *, prior: Array | None = None, kappa: float = 0.0) -> tuple[float, Array]:
    """Certain predictions, even classes.

    Args:
        logits: Shape (n, classes).
        prior: q, shape (classes,); None for the batch's own mean.
        kappa: κ: how far the stream is known to hold few classes, 0 to 1.

    Returns:
        The loss in nats, and dL/d logits, float32; q counts as a constant.
    """
    p = softmax(logits)
    log_q = np.log(np.maximum(p.mean(axis=0) if prior is None else prior, 1e-12))
    loss = float(entropies(p).mean() + (1 - kappa) * p.mean(axis=0) @ log_q)
    slope = (1 - kappa) * log_q - (np.log(np.maximum(p, 1e-300)) + 1)
    return loss, _through_softmax(p, slope / len(p))


def likelihood_ratio_loss(logits: Array, *, weights: Array | None = None) -> tuple[float, Array]:
    """Soft likelihood ratio: unlike entropy's, its slope does not vanish for samples that are certain; as ``entropy_loss``."""
    p = softmax(logits)
    w = np.ones(len(p)) if weights is None else weights
    clipped = np.clip(p, 1e-12, CONFIDENT)
    ratio = np.log(clipped / (1 - clipped))
    inside = (p > 1e-12) & (p < CONFIDENT)
    slope = -(ratio + np.where(inside, 1 / (1 - clipped), 0.0))
    return float((w * -(p * ratio).sum(axis=1)).mean()), _through_softmax(p, slope * (w / len(p))[:, None])
