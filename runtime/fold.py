"""Fold: signature × templates → the concrete weights of a network, without mixtures and without BN.

For layer ℓ, with ξ_ℓ = softmax of the signature's row ℓ, all in float64 and rounded to float32 once at the end:

    θ_ℓ = Σ_k ξ_ℓk θ_k                                    one matrix product over all layers, Ξ (L, K) @ Θ (K, P)
    s = γ / √(var + ε),  t = β - mean · s                 every BN channel at once
    W' = W · s (per output channel),  b' = t              for the convolution before each BN
    W'' = W' / std (per input channel),  b'' = b' - Σ W'' · mean        the input adapter takes the normalisation in as well

The input adapter has no padding, so taking the normalisation in is exact.
Must never import torch or onnx.

Source: Compositional Models, section 3.2; the BN identity is standard (STYLE.md's guide: the derivation stands with the code).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from isoform.runtime.mixture import softmax
from isoform.runtime.spec import Array, NetworkSpec

__all__ = ["bn_scale_shift", "fold", "folded_shapes", "mix", "template_matrix"]

BN_CONVOLUTIONS = ("expand", "depthwise", "project")
"""The parts of a block whose convolution is followed by BN, in order."""
SE_CONVOLUTIONS = ("squeeze", "excite")
"""The parts of a block that have a bias of their own and no BN."""


def template_matrix(spec: NetworkSpec, tensors: Mapping[str, Array]) -> Array:
    """Θ, shape (K, P), float64: one row per template, columns in the order of ``spec.block_shapes``."""
    rows = [tensors[f"template.{name}"].reshape(spec.templates, -1) for name in spec.block_shapes]
    return np.concatenate(rows, axis=1).astype(np.float64)


def mix(spec: NetworkSpec, theta: Array, xi: Array) -> dict[str, Array]:
    """Mix all layers.

    Args:
        spec: The network's sizes.
        theta: Θ from ``template_matrix``.
        xi: Mixture weights, shape (L, K), float64. Where a row is one-hot, its layer is its template to the last bit.

    Returns:
        Name of each block tensor → array with a leading L, float64.
    """
    mixed = xi @ theta
    result, start = {}, 0
    for name, shape in spec.block_shapes.items():
        size = math.prod(shape)
        result[name] = mixed[:, start : start + size].reshape(spec.layers, *shape)
        start += size
    return result


def bn_scale_shift(spec: NetworkSpec, affine: Array, statistics: Array) -> tuple[Array, Array]:
    """BN as one multiplication and one addition per channel.

    Args:
        spec: The network's sizes, for ε.
        affine: γ and β, shape (2, N).
        statistics: Mean and variance, shape (2, N).

    Returns:
        s and t, each of shape (N,), float64.
    """
    gamma, beta = affine.astype(np.float64)
    mean, var = statistics.astype(np.float64)
    scale = gamma / np.sqrt(var + spec.bn_eps)
    return scale, beta - mean * scale


def folded_shapes(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    """Name → shape of everything that ``fold`` returns, in graph order, but for the logits layer."""
    blocks = spec.block_shapes
    shapes: dict[str, tuple[int, ...]] = {
        "input_adapter.weight": spec.shared_shapes["input_adapter.weight"],
        "input_adapter.bias": (spec.channels,),
    }
    for layer in range(spec.layers):
        for part in ("expand", "depthwise", "squeeze", "excite", "project"):
            weight = blocks[f"{part}.weight"]
            shapes[f"layer{layer:02d}.{part}.weight"] = weight
            shapes[f"layer{layer:02d}.{part}.bias"] = (weight[0],)
    shapes["output_adapter.weight"] = spec.shared_shapes["output_adapter.weight"]
    shapes["output_adapter.bias"] = (spec.head_channels,)
    shapes["embedding.weight"] = spec.shared_shapes["embedding.weight"]
    shapes["embedding.bias"] = spec.shared_shapes["embedding.bias"]
    return shapes


def fold(spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array]) -> dict[str, Array]:
    """Fold a complete signature into concrete weights.

    Args:
        spec: The network's sizes.
        tensors: ``templates.safetensors``: ``spec.template_shapes``' names → float32 arrays.
        parts: All five parts of a signature, as ``Bundle.resolve`` returns them.

    Returns:
        Name → float32 array, C-contiguous: ``folded_shapes``' names in order, then ``logits.weight`` and ``logits.bias``.
    """
    blocks = mix(spec, template_matrix(spec, tensors), softmax(parts["mixture"]))
    scale, shift = bn_scale_shift(spec, parts["bn.affine"], parts["bn.statistics"])
    places = spec.bn_slices

    stem = tensors["input_adapter.weight"].astype(np.float64) * scale[places["input_adapter"], None, None, None]
    stem /= np.asarray(spec.std)[None, :, None, None]
    weights = {
        "input_adapter.weight": stem,
        "input_adapter.bias": shift[places["input_adapter"]]
        - (stem * np.asarray(spec.mean)[None, :, None, None]).sum((1, 2, 3)),
    }
    body = slice(spec.channels, spec.channels + spec.layers * spec.block_bn_channels)
    scales, shifts = scale[body].reshape(spec.layers, -1), shift[body].reshape(spec.layers, -1)
    start = 0
    for part in BN_CONVOLUTIONS:
        width = blocks[f"{part}.weight"].shape[1]
        s, t = scales[:, start : start + width], shifts[:, start : start + width]
        blocks[f"{part}.weight"] = blocks[f"{part}.weight"] * s[:, :, None, None, None]
        blocks[f"{part}.bias"] = t
        start += width
    for layer in range(spec.layers):
        for part in ("expand", "depthwise", "squeeze", "excite", "project"):
            for kind in ("weight", "bias"):
                weights[f"layer{layer:02d}.{part}.{kind}"] = blocks[f"{part}.{kind}"][layer]
    head = places["output_adapter"]
    weights["output_adapter.weight"] = (
        tensors["output_adapter.weight"].astype(np.float64) * scale[head, None, None, None]
    )
    weights["output_adapter.bias"] = shift[head]
    for name, array in (
        *((n, tensors[n]) for n in ("embedding.weight", "embedding.bias")),
        *((n, parts[n]) for n in ("logits.weight", "logits.bias")),
    ):
        weights[name] = array
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}
