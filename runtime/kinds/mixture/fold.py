"""Fold: computes the concrete weights of a network, without mixtures and BN, from a signature and the templates.

For layer ℓ, with ξ_ℓ = softmax of the signature's row ℓ:

    θ_ℓ = Σ_k ξ_ℓk θ_k                                    one matrix product over all layers, Ξ (L, K) @ Θ (K, P);
                                                          a ``delta`` adds to it (``directions.py``)
    s = γ / √(var + ε),  t = β - mean · s                 every BN channel at once (``normalisation.py``)
    W' = W · s (per output channel),  b' = t              for the convolution before each BN
    W'' = W' / std (per input channel),  b'' = b' - Σ W'' · mean        the input normalisation is folded into the input adapter

ξ, s, t and the adapters are computed in float64 and rounded to float32 once; mixing and scaling, which process every weight, use
float32. A layer whose ξ is one-hot equals its template bit for bit. The input adapter has no padding, so folding the
normalisation is exact. Must never import torch or onnx.

Source: Compositional Models, section 3.2; the BN identity is standard (STYLE.md's guide: the derivation stands with the code).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array, softmax
from isoform.runtime.kind import HEAD
from isoform.runtime.kinds.mixture.directions import directions, mixing
from isoform.runtime.kinds.mixture.normalisation import bn_scale_shift
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = [
    "CONSTANTS",
    "fold",
    "folded_shapes",
    "mix",
    "row_shapes",
    "shared_affine",
    "template_matrix",
]

BN_CONVOLUTIONS = ("expand", "depthwise", "project")
"""The convolutions of a block that are followed by BN, in order."""
# constants of a plan as well: only constant matrices are prepacked by ONNX Runtime
CONSTANTS = ("embedding.weight", "embedding.bias")
"""Folded weights that are the same for every signature."""


def template_matrix(spec: NetworkSpec, tensors: Mapping[str, Array]) -> Array:
    """Return Θ, shape (K, P), float32: one row per template, columns in the order of ``row_shapes``."""
    return np.concatenate(
        [tensors[f"template.{name}"].reshape(spec.templates, -1) for name in row_shapes(spec)], axis=1
    )


def mix(spec: NetworkSpec, theta: Array, parts: Mapping[str, Array]) -> dict[str, Array]:
    """Mix all layers.

    Args:
        spec: The network's sizes.
        theta: Θ, the result of ``template_matrix``.
        parts: A signature's ``mixture``, shape (L, K), and its ``delta``, (L, K + J), which may be absent.

    Returns:
        Names of ``row_shapes`` → array with a leading axis L, float32.
    """
    weights = mixing(parts).astype(np.float32)
    mixed = weights[:, : spec.templates] @ theta
    if weights.shape[1] > spec.templates:
        mixed += weights[:, spec.templates :] @ directions(theta, row_shapes(spec), spec.random_directions)
    result, start = {}, 0
    for name, shape in row_shapes(spec).items():
        size = math.prod(shape)
        result[name] = mixed[:, start : start + size].reshape(spec.layers, *shape)
        start += size
    return result


def shared_affine(spec: NetworkSpec, tensors: Mapping[str, Array], logits: Array) -> Array:
    """Compute γ and β of a signature without its own: the bundle's, or with ``mixed`` the mixture of the templates'.

    Args:
        spec: The network's sizes; ``affine`` is not ``task``.
        tensors: ``templates.safetensors``' arrays.
        logits: A signature's mixture, shape (L, K).

    Returns:
        Shape (2, N), float32. A fresh array.
    """
    affine = np.array(tensors["bn.affine"])
    if spec.affine == "mixed":
        rows = np.tensordot(softmax(logits), tensors["template.bn.affine"].astype(np.float64), axes=1)
        # (L, 2, B) → (2, L · B): blocks only, because the adapters are no mixture and keep the bundle's γ and β
        affine[:, spec.channels : -spec.head_channels] = rows.transpose(1, 0, 2).reshape(2, -1)
    return affine


def row_shapes(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the mixed weights of one layer, in the order of Θ's columns."""
    return {name: shape for name, shape in spec.block_shapes.items() if name != "bn.affine"}


def folded_shapes(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    """Return name → shape of all results of ``fold`` except the logits layer, in three regions.

    First the mixed weights, layer after layer; then what depends on BN only: biases and adapters; last ``CONSTANTS``.
    """
    # In this order, because signatures that inherit BN share everything after the first region of a plan.
    shapes = {
        f"layer{layer:02d}.{name}": shape for layer in range(spec.layers) for name, shape in row_shapes(spec).items()
    }
    shared = spec.shared_shapes
    shapes["input_adapter.weight"] = shared["input_adapter.weight"]
    shapes.update({f"{name}.bias": (place.stop - place.start,) for name, place in spec.bn_slices.items()})
    shapes["output_adapter.weight"] = shared["output_adapter.weight"]
    shapes.update({name: shared[name] for name in CONSTANTS})
    return shapes


def fold(spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array]) -> dict[str, Array]:
    """Fold a complete signature into concrete weights.

    Args:
        spec: The network's sizes.
        tensors: ``templates.safetensors``: ``spec.template_shapes``' names → float32 arrays.
        parts: All parts of a signature, as ``Bundle.resolve`` returns them.

    Returns:
        Name → float32 array, C-contiguous: ``folded_shapes``' names in order, then ``logits.weight`` and ``logits.bias``.
    """
    blocks = mix(spec, template_matrix(spec, tensors), parts)
    scale, shift = bn_scale_shift(spec, tensors, parts)
    places = spec.bn_slices
    weights: dict[str, Array] = {f"{name}.bias": shift[place] for name, place in places.items()}
    for name, mixed in blocks.items():
        bn = [places.get(f"layer{layer:02d}.{name.removesuffix('.weight')}") for layer in range(spec.layers)]
        # None for squeeze and excite, which have no BN; all weights before a BN are (L, out, in, k, k)
        if bn[0] is not None:
            mixed = mixed * np.stack([scale[place] for place in bn]).astype(np.float32)[:, :, None, None, None]
        weights.update({f"layer{layer:02d}.{name}": mixed[layer] for layer in range(spec.layers)})
    # float64 until the end, so that there is only one rounding
    stem = tensors["input_adapter.weight"].astype(np.float64) * scale[places["input_adapter"], None, None, None]
    stem /= np.asarray(spec.std)[None, :, None, None]
    weights["input_adapter.weight"] = stem
    weights["input_adapter.bias"] -= (stem * np.asarray(spec.mean)[None, :, None, None]).sum((1, 2, 3))
    out = tensors["output_adapter.weight"].astype(np.float64)
    weights["output_adapter.weight"] = out * scale[places["output_adapter"], None, None, None]
    weights.update({name: tensors[name] for name in CONSTANTS})
    weights.update({name: parts[name] for name in HEAD})  # never folded: an input of every portable graph
    order = (*folded_shapes(spec), *HEAD)
    return {name: np.ascontiguousarray(weights[name], dtype=np.float32) for name in order}
