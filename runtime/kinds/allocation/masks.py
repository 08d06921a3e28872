"""Masks: which components of each layer a task uses, the names of the graphs that run them, and the weights of components.

    gate_ℓj = z_ℓj / max(1, Σ_j z_ℓj)        or z_ℓj, where outputs are added instead of averaged

z, shape (L, C), is a signature's ``allocation``. A layer in which a task uses no component has the output 0, whatever its input
(section III-A). Source: Gumbel-Matrix, sections III and III-E; the division: google-research/learning_parameter_allocation, in
``pathnet_lib.py``.
"""

from __future__ import annotations

import re

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import SignatureError
from isoform.runtime.kinds.allocation.spec import ModularSpec

__all__ = ["ANY", "active_share", "checked_mask", "gates_of", "mask_named", "name_of"]

ANY = "any-mask"
"""Name of the graph that runs every component, and so any mask."""
_NAME = re.compile(r"mask-([0-9a-f]+)")


def checked_mask(spec: ModularSpec, mask: Array) -> Array:
    """Return the mask as it is, shape (L, C), bool. Raises ``SignatureError`` if it uses a component that does not exist."""
    outside = np.argwhere(mask & ~np.array(spec.exists))
    if outside.size:
        layer, place = outside[0]
        raise SignatureError(
            f"a signature's allocation uses component {place} of layer {layer}, which has {len(spec.layers[layer].components)}"
        )
    return mask


def gates_of(spec: ModularSpec, mask: Array) -> Array:
    """Return the weight of every component's output in its layer, shape (L, C), float32."""
    weights: Array = mask.astype(np.float32)
    if spec.combine == "mean":
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1)
    return weights


def active_share(spec: ModularSpec, mask: Array) -> float:
    """Return the share of all components that a mask uses, 0 to 1."""
    return float(mask.sum() / np.array(spec.exists).sum())


def name_of(mask: Array) -> str | None:
    """Return the name of the graph with a mask's components alone: ``mask-`` and its bits, row by row, in hex digits.

    None if a layer has no component: such a network does not depend on its input, and no graph is made for it.
    """
    return f"mask-{np.packbits(mask).tobytes().hex()}" if mask.any(axis=1).all() else None


def mask_named(spec: ModularSpec, name: str) -> Array | None:
    """Return the mask of a graph's name, shape (L, C), bool; None for ``ANY``, whose mask is in the signature.

    Raises:
        SignatureError: If it is the name of no graph of this network.
    """
    if name == ANY:
        return None
    shape = len(spec.layers), spec.widest
    found, size = _NAME.fullmatch(name), shape[0] * shape[1]
    if found is not None and len(found[1]) == 2 * -(-size // 8):
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(found[1]), dtype=np.uint8))[:size]
        mask = bits.reshape(shape).astype(bool)
        if name_of(mask) == name:  # not so with bits beyond the last component, or with a layer that has none
            return checked_mask(spec, mask)
    raise SignatureError(f"{name!r} is no graph of a network with {shape[0]} layers of up to {shape[1]} components")
