"""The training objective of a mixture.

    L = mean over tasks of cross-entropy  +  λ(s) · R  +  μ(s) · A

    R = mean over tasks and layers of H(ξ_tℓ) / log K,   H(ξ) = -Σ_k ξ_k log ξ_k        entropy regulariser, 0 iff one-hot
    A = mean over tasks and layers of Σ_k ξ_tℓk |θ_k - θ_tℓ|² / m                        attraction, 0 iff the templates in use coincide
    θ_tℓ = Σ_k ξ_tℓk θ_k,   m = mean over k of |θ_k|²                                    m without a gradient
    λ(s) = λ · clip((s/S - start) / (end - start), 0, 1)                                its ramp over the steps s of S; μ(s) alike

A draws templates to the mixtures that they contribute to, and lowers the ξ of templates that are far. With G = Θ Θᵀ it is ξ · diag G - ξᵀ G ξ,
so that it costs one product of Θ with itself. All templates alike are its minimum too: the mean cosine between them says how near that is.

Source: Compositional Models, Appendix A (a) and (b); the paper describes both in words, without formulas, and these fit the descriptions. With
the ramps, the first steps choose templates freely, and the second half trains layers that are already nearly discrete.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isoform.train.kinds.mixture.recipe import MixtureTable

__all__ = [
    "LEARNED",
    "attraction_weight",
    "entropy_regulariser",
    "entropy_weight",
    "template_attraction",
    "template_cosine",
]

LEARNED = ("learned", "discrete")
"""Signatures whose ξ is a softmax that is trained; for others both regularisers are 0."""


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


def template_attraction(xi: Tensor, templates: Tensor) -> Tensor:
    """Compute A.

    Args:
        xi: ξ, shape (..., K); rows sum to 1.
        templates: Θ, shape (K, P).

    Returns:
        A number of at least 0, up to rounding.
    """
    gram = templates @ templates.T
    squares = gram.diagonal()
    spread = (xi * squares).sum(-1) - (xi @ gram * xi).sum(-1)
    return spread.mean() / squares.detach().mean()


@torch.no_grad()
def template_cosine(templates: Tensor) -> float:
    """Compute the mean cosine between two templates, -1 to 1; Θ has the shape (K, P), K at least 2. It is near 1 if all templates are alike."""
    rows = torch.nn.functional.normalize(templates)
    count = len(rows)
    return float(((rows @ rows.T).sum() - count) / (count * (count - 1)))


def entropy_weight(step: int, steps: int, table: MixtureTable) -> float:
    """Compute λ(s) for step ``step`` of ``steps``; 0 for signatures that are not learned softmaxes."""
    return _ramped(table.entropy, step / steps, table.entropy_start, table.entropy_end) * (table.signature in LEARNED)


def attraction_weight(step: int, steps: int, table: MixtureTable) -> float:
    """Compute μ(s), as ``entropy_weight`` computes λ(s)."""
    found = _ramped(table.attraction, step / steps, table.attraction_start, table.attraction_end)
    return found * (table.signature in LEARNED)


def _ramped(most: float, share: float, start: float, end: float) -> float:
    # A ramp without width is a step from 0 to its end, not a division by 0.
    return most * min(1.0, max(0.0, (share - start) / max(end - start, 1e-9)))
