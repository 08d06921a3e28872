"""Where a fit begins: a logits layer for classes that are new.

It begins as a linear discriminant (Fisher 1936), with Σ the variance within classes and d embedding numbers:

    logits_c = μ_c Σ⁻¹ e - μ_c Σ⁻¹ μ_c / 2,        Σ = (1 - λ) S + λ (tr S / d) 1

S alone is hopeless for fewer samples than d; λ is what makes the expected error of Σ smallest, estimated from the same samples
(Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices"). Where every class has one sample
there is no S: λ = 1, the nearest mean.
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["discriminant", "shrunk"]


def discriminant(embeddings: Array, labels: Array, classes: int) -> tuple[Array, Array]:
    """A logits layer from classes' means and the variance within them.

    Args:
        embeddings: What the logits layer sees of the samples, shape (n, embedding).
        labels: Indices of classes, shape (n,); every class must be there.
        classes: How many there are.

    Returns:
        Weight, shape (classes, embedding), and bias, shape (classes,), float64.
    """
    e = embeddings.astype(np.float64)
    means = np.stack([e[labels == label].mean(axis=0) for label in range(classes)])
    freedom = len(e) - classes
    if freedom:
        covariance, share = shrunk(e - means[labels])
        covariance *= len(e) / freedom  # the means are the samples' own
        spread = float(np.trace(covariance)) / e.shape[1]
    else:
        covariance, share, spread = np.zeros((e.shape[1], e.shape[1])), 1.0, float(((e - e.mean(axis=0)) ** 2).mean())
    within = (1 - share) * covariance
    within[np.diag_indices_from(within)] += max(share * spread, 1e-6)
    weight = np.linalg.solve(within, means.T).T
    return weight, -(weight * means).sum(axis=1) / 2


def shrunk(rows: Array) -> tuple[Array, float]:
    """Covariance of centred rows, shape (n, d), and how far to shrink it: shape (d, d), and λ of Ledoit and Wolf, 0 to 1."""
    samples, size = rows.shape
    covariance: Array = rows.T @ rows / samples
    square = float((covariance**2).sum())
    off = square - float(np.trace(covariance)) ** 2 / size
    noise = (float(((rows**2).sum(axis=1) ** 2).sum()) / samples - square) / samples
    return covariance, min(1.0, noise / off) if off > 0 else 1.0
