"""Softening of discrete mixtures for training: the softmax of a discrete layer has gradient 0.

The other templates' logits are raised until the best one's ξ is at most ``SOFT``. Adam normalises the size of gradients, so it can
move away from there within a few steps.
"""

from __future__ import annotations

import math

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["SOFT", "softened"]

# with 0.9 networks broke whose BN statistics stayed: slanted digits 58 → 42 % right (docs/log.md, 2026-11-21)
SOFT = 0.97


def softened(logits: Array) -> Array:
    """Return mixture logits, shape (L, K), float64, in which no template is so far behind that the best has more than ``SOFT``."""
    templates = logits.shape[1]
    if templates == 1:
        return logits.astype(np.float64)
    # with all others at -reach, the best has exactly ξ = SOFT
    reach = math.log(SOFT * (templates - 1) / (1 - SOFT))
    lead: Array = logits.astype(np.float64)
    lead -= lead.max(axis=1, keepdims=True)
    return np.maximum(lead, -reach)
