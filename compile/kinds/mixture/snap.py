"""Snap: make near-one-hot layers exactly one-hot, so that each is one template.

Layer ℓ is snapped iff max_k ξ_ℓk ≥ τ; other layers keep their mixture and get concrete weights of their own. ``verify.py`` measures
what snapping costs. Source: papers.md 1.3, the folding test for the compile stage.
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.errors import CompileError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.discrete import discrete_logits, xi_of

__all__ = ["snap"]


def snap(signature: Signature, *, tau: float) -> Signature:
    """Snap a signature.

    Args:
        signature: A signature that has its own mixture.
        tau: τ, above 0.5 and up to 1; at 1, only layers that are already one-hot are snapped.

    Returns:
        A signature whose ``parent`` is the given one, and whose ``sequence`` says which layers are discrete.

    Raises:
        CompileError: If τ is out of range.
    """
    if not 0.5 < tau <= 1:
        raise CompileError(
            f"tau is {tau}, but a number above 0.5 and up to 1 was expected; at 0.5, two templates of a layer could qualify"
        )
    xi = xi_of(signature.parts)
    near = xi.max(axis=1) >= tau
    # Logits of 0 and -10,000: their softmax is one-hot to the last bit, in float32 and in float16.
    mixture = np.where(near[:, None], discrete_logits(xi.argmax(axis=1), xi.shape[1]), signature.parts["mixture"])
    return signature.replace(parts={**signature.parts, "mixture": mixture})
