"""Mixture weights, ξ_ℓ = softmax of row ℓ of a signature's logits, and discrete layers, which use exactly one template.

A layer is *discrete* if its logits are one 0 and otherwise -10,000: exp(-10000) is 0 in float64, so its ξ is exactly one-hot,
also after a round trip through float16. Source: Compositional Models, section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from isoform.runtime.arrays import Array, softmax
from isoform.runtime.errors import SignatureError

__all__ = ["DISCRETE_GAP", "discrete_logits", "discrete_sequence", "sequence_of", "xi_of"]

DISCRETE_GAP = 10_000.0
"""Distance between the logits of a discrete layer: exp(-10000) is 0 in float64, and 10000 fits float16."""


def discrete_logits(sequence: Sequence[int], templates: int) -> Array:
    """Return logits whose softmax is exactly one-hot.

    Args:
        sequence: Template index of each layer, 0 to ``templates`` - 1.
        templates: K.

    Returns:
        Shape (L, K), float32.

    Raises:
        SignatureError: If an index is out of range.
    """
    indices = np.asarray(sequence)
    if (
        indices.ndim != 1
        or indices.size == 0
        or indices.dtype.kind not in "iu"
        or indices.min() < 0
        or indices.max() >= templates
    ):
        raise SignatureError(
            f"a sequence is {list(sequence)}, but template indices from 0 to {templates - 1} were expected, one per layer"
        )
    logits = np.full((len(indices), templates), -DISCRETE_GAP, dtype=np.float32)
    logits[np.arange(len(indices)), indices] = 0
    return logits


def xi_of(parts: Mapping[str, Array]) -> Array:
    """Compute the mixture weights ξ, shape (L, K), float64, rows sum to 1; exactly one-hot for discrete layers.

    Args:
        parts: Parts of a signature.

    Raises:
        SignatureError: If the parts do not include the mixture.
    """
    if "mixture" not in parts:
        raise SignatureError("this signature inherits its mixture from its base; complete it with Bundle.resolve first")
    return softmax(parts["mixture"])


def sequence_of(xi: Array) -> tuple[int | None, ...]:
    """Return the template index of each discrete layer, as ``discrete_sequence`` decides for it alone; None for the others."""
    alone = (discrete_sequence(row[None]) for row in xi)
    return tuple(None if found is None else found[0] for found in alone)


def discrete_sequence(xi: Array) -> list[int] | None:
    """Return the template index of each layer, if all layers are discrete.

    Args:
        xi: Mixture weights, shape (L, K), rows sum to 1.

    Returns:
        L indices, 0 to K - 1; None if a row is not exactly one-hot.
    """
    # not max() == 1: beside a logit gap of 37 the largest is 1 in float64, but the other templates still have a weight.
    # rows sum to 1, so each has at least one value that is not 0; L of them in all means one per row
    if np.count_nonzero(xi) != len(xi):
        return None
    result: list[int] = xi.argmax(axis=1).tolist()
    return result
