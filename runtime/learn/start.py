"""Initialisation of a logits layer for new classes.

It starts as a linear discriminant (Fisher 1936), with Σ the within-class covariance and d the size of the embedding:

    logits_c = μ_c Σ⁻¹ e - μ_c Σ⁻¹ μ_c / 2,        Σ = (1 - λ) S + λ (tr S / d) 1

The sample covariance S is singular with fewer samples than d; the shrinkage λ minimises the expected error of Σ, estimated from the
same samples (Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices"). With one sample per
class there is no S, so λ = 1: the nearest class mean.
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["discriminant", "shrunk"]


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
