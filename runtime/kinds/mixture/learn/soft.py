"""Mixtures that can move: a discrete layer's softmax has no slope, so no gradient can leave it.

Its logits are raised until the best template's ξ is ``SOFT``, which Adam, blind to a gradient's size, can leave within a few steps.
"""

from __future__ import annotations

import math

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["SOFT", "softened"]

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
