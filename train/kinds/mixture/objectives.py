"""The training objective of a mixture.

    L = mean over tasks of cross-entropy  +  λ(s) · R

    R = mean over tasks and layers of H(ξ_tℓ) / log K,   H(ξ) = -Σ_k ξ_k log ξ_k        entropy regulariser, 0 iff one-hot
    λ(s) = λ · clip((s/S - start) / (end - start), 0, 1)                                its ramp over the steps s of S

Source: Compositional Models, Appendix A (a); the paper describes R in words, without a formula, and this one fits the description. With
the ramp, the first steps choose templates freely, and the second half trains layers that are already nearly discrete.
"""

from __future__ import annotations

import math

from torch import Tensor

from isoform.train.kinds.mixture.recipe import MixtureTable

__all__ = ["entropy_regulariser", "entropy_weight"]


def entropy_regulariser(logits: Tensor) -> Tensor:
    """Compute R from the logits of ξ.

    Args:
        logits: Logits of ξ, shape (..., K).

    Returns:
        A number from 0 (all one-hot) to 1 (all uniform); 0 for K = 1.
    """
    templates = logits.shape[-1]
    if templates == 1:
        return logits.sum() * 0  # a zero with a gradient; log K, which R is divided by, is 0 as well
    # From log_softmax, not from ξ: the gradient of ξ log ξ is not finite where ξ has become 0.
    log_xi = logits.log_softmax(-1)
    return -(log_xi.exp() * log_xi).sum(-1).mean() / math.log(templates)


def entropy_weight(step: int, steps: int, table: MixtureTable) -> float:
    """Compute λ(s) for step ``step`` of ``steps``; 0 for hand-designed signatures."""
    if table.signature != "learned":
        return 0.0
    # A ramp without width is a step from 0 to λ, not a division by 0.
    width = max(table.entropy_end - table.entropy_start, 1e-9)
    return table.entropy * min(1.0, max(0.0, (step / steps - table.entropy_start) / width))
