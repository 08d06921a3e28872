"""Where a fit begins: a signature's numbers, softened so that its mixture can move; and a logits layer for classes that are new.

A discrete layer's softmax has no slope, so no gradient can leave it. Its logits are raised until the best template's ξ is
``SOFT``, which Adam, blind to a gradient's size, can leave within a few steps.

A new logits layer begins with the samples' class means: logits_c = (μ_c · e - |μ_c|²/2) / s², which is the Gaussian classifier with
one variance s² in all directions, the mean over embedding numbers of the variance within classes. (Between classes too where every
class has one sample.)
"""

from __future__ import annotations

import math

import numpy as np

from isoform.runtime.spec import Array

__all__ = ["SOFT", "prototypes", "softened"]

SOFT = 0.97


def softened(logits: Array) -> Array:
    """Mixture logits, shape (L, K), float64, whose softmax has a slope: no template lies so far back that the best has more than ``SOFT``."""
    templates = logits.shape[1]
    if templates == 1:
        return logits.astype(np.float64)
    reach = math.log(SOFT * (templates - 1) / (1 - SOFT))
    lead: Array = logits.astype(np.float64)
    lead -= lead.max(axis=1, keepdims=True)
    return np.maximum(lead, -reach)


def prototypes(embeddings: Array, labels: Array, classes: int) -> tuple[Array, Array]:
    """A logits layer from class means.

    Args:
        embeddings: What the logits layer sees of the samples, shape (n, embedding).
        labels: Indices of classes, shape (n,); every class must be there.
        classes: How many there are.

    Returns:
        Weight, shape (classes, embedding), and bias, shape (classes,), float64.
    """
    e = embeddings.astype(np.float64)
    means = np.stack([e[labels == label].mean(axis=0) for label in range(classes)])
    within = e - means[labels]
    spread = within if np.bincount(labels, minlength=classes).max() > 1 else e - e.mean(axis=0)
    variance = max(float((spread**2).mean()), 1e-6)
    return means / variance, -(means**2).sum(axis=1) / 2 / variance
