"""Directions of ``delta``: coefficients that are added to a layer's weights, without a softmax.

    θ_ℓ = Σ_k (ξ_ℓk + δ_ℓk) θ_k + Σ_j δ_ℓ,K+j r_j,        δ = ``STEP`` · whole numbers,  k = 1 … K,  j = 1 … J

The first K directions are the templates. The others are random signs from a fixed seed, so that no file stores them, times the root
mean square that the templates have in the same tensor. So a network whose mixture is discrete, where ξ has no gradient, can be
personalized too. The signs of tensor t are the bits of SHA-256("isoform directions 1 t b"), b = 0, 1, …, one hash after the other, in
each byte the most significant bit first, in the order of an array (J, size of t); a bit 1 is +1.
With the first ``delta`` of a bundle they take the memory of J more templates, and a quarter of that for the signs.

Sources: Li et al. 2018, "Measuring the intrinsic dimension of objective landscapes" (random directions); Compositional Models, section
3.2 (the mixture). Must never import torch or onnx.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.mixture.discrete import sequence_of, xi_of

__all__ = ["STEP", "directions", "mixing", "signs_of", "template_sequence"]

STEP = 1 / 128
"""δ of the whole number 1. A power of two, so that δ is exact in float32; whole numbers up to 127 take a byte each in a file."""


def mixing(parts: Mapping[str, Array]) -> Array:
    """Return the coefficients of each layer's weights, float64: ξ, shape (L, K); with a ``delta`` that is not 0, shape (L, K + J).

    Raises:
        SignatureError: If the parts do not include the mixture.
    """
    xi, delta = xi_of(parts), parts.get("delta")
    # a discrete layer stays exactly one-hot where nothing is added, and shares its folded block with other users then
    if delta is None or not delta.any():
        return xi
    added = STEP * delta.astype(np.float64)
    added[:, : xi.shape[1]] += xi
    return added


def template_sequence(parts: Mapping[str, Array]) -> list[int | None]:
    """Return the template index of each layer that is exactly one template, 0 to K - 1; None for a mixed layer, or one that a ``delta`` changes."""
    sequence = sequence_of(xi_of(parts))
    changed = np.any(parts["delta"], axis=1) if "delta" in parts else np.zeros(len(sequence), dtype=bool)
    return [None if delta else template for template, delta in zip(sequence, changed, strict=True)]


def directions(theta: Array, shapes: Mapping[str, tuple[int, ...]], count: int) -> Array:
    """Return the random directions r.

    Args:
        theta: Θ, shape (K, P), as ``fold.template_matrix`` returns it.
        shapes: Name → shape of the tensors whose values its columns are, in order, as ``fold.row_shapes`` returns them.
        count: J, ``spec.random_directions``.

    Returns:
        Shape (J, P), float32; columns as those of Θ.
    """
    result, start = np.empty((count, theta.shape[1]), dtype=np.float32), 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        columns = slice(start, start + size)
        scale = np.sqrt(np.mean(np.square(theta[:, columns], dtype=np.float64)))
        np.multiply(signs_of(name, size, count), np.float32(scale), out=result[:, columns])
        start += size
    return result


@functools.lru_cache(maxsize=32)  # the tensors of a few networks
def signs_of(name: str, size: int, count: int) -> Array:
    """Return the signs of one tensor, shape (``count``, size), int8: 1 or -1. Read-only."""
    total = count * size
    hashes = (hashlib.sha256(f"isoform directions 1 {name} {block}".encode()) for block in range(-(-total // 256)))
    bits = np.unpackbits(np.frombuffer(b"".join(found.digest() for found in hashes), dtype=np.uint8))[:total]
    result = (2 * bits.astype(np.int8) - 1).reshape(count, size)
    result.flags.writeable = False
    return result
