"""The numpy reference implementation: slow and simple, it defines the meaning of a signature.

It runs the network as written in the paper, mixture by mixture and BN by BN, in float64 and without the fold, so that the fold, the
exported graph and ONNX Runtime can be tested against it. Use it for checks, not for serving.

Source: Compositional Models, sections 3.2 and 4.1; MobileNetV3 for the block.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array, softmax
from isoform.runtime.kinds.mixture.directions import STEP, signs_of
from isoform.runtime.kinds.mixture.normalisation import FARTHEST
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = ["reference_logits"]


def hard_sigmoid(a: Array) -> Array:
    """Compute min(max(a + 3, 0), 6) / 6."""
    clipped: Array = np.clip(a + 3, 0, 6)
    return clipped / 6


def hard_swish(a: Array) -> Array:
    """Compute a · hard_sigmoid(a)."""
    return a * hard_sigmoid(a)


def pointwise(x: Array, weight: Array) -> Array:
    """Compute a 1×1 convolution: x (n, c, h, w), weight (d, c, 1, 1) → (n, d, h, w)."""
    result: Array = np.einsum("dc,nchw->ndhw", weight[:, :, 0, 0], x, optimize=True)
    return result


def depthwise(x: Array, weight: Array) -> Array:
    """Compute a depthwise convolution with zero padding to the same size: x (n, e, h, w), weight (e, 1, k, k)."""
    k = weight.shape[-1]
    half, (height, width) = k // 2, x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    result = np.zeros_like(x)
    for i in range(k):
        for j in range(k):
            result += weight[None, :, 0, i, j, None, None] * padded[:, :, i : i + height, j : j + width]
    return result


def patches(x: Array, weight: Array) -> Array:
    """Compute a convolution whose stride equals its kernel: x (n, c, h, w), weight (d, c, kh, kw) → (n, d, h / kh, w / kw)."""
    n, c, height, width = x.shape
    kh, kw = weight.shape[2:]
    cut = x.reshape(n, c, height // kh, kh, width // kw, kw)
    result: Array = np.einsum("dcij,ncyixj->ndyx", weight, cut, optimize=True)
    return result


def reference_logits(spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array], x: Array) -> Array:
    """Run the network.

    Args:
        spec: The network's sizes.
        tensors: ``templates.safetensors``' arrays.
        parts: All parts of a signature, as ``Bundle.resolve`` returns them.
        x: Samples, shape (n, channels, height, width), any float, not yet normalised.

    Returns:
        Logits, shape (n, classes), float32.
    """
    # float64, so that a difference from an engine is the engine's rounding
    wide = {name: array.astype(np.float64) for name, array in {**tensors, **parts}.items()}
    places, xi = spec.bn_slices, softmax(parts["mixture"])
    (gamma, beta), (mean, var) = wide["bn.affine"], wide["bn.statistics"]
    deviation = np.sqrt(var + spec.bn_eps)
    if "bn.coefficients" in parts and parts["bn.coefficients"].any():
        weights = STEP * wide["bn.coefficients"] * wide["bn.direction_scales"]
        p, q = np.tensordot(weights, wide["bn.directions"], axes=1)
        mean, deviation = mean + deviation * p, deviation * np.exp(np.clip(q, -FARTHEST, FARTHEST))

    def bn(z: Array, name: str) -> Array:
        p = places[name]
        normal = (z - mean[p, None, None]) / deviation[p, None, None]
        result: Array = gamma[p, None, None] * normal + beta[p, None, None]
        return result

    def mixed(layer: int, name: str) -> Array:
        result: Array = np.tensordot(xi[layer], wide[f"template.{name}"], axes=1)
        if "delta" in parts and parts["delta"].any():
            templates, delta = wide[f"template.{name}"], STEP * wide["delta"][layer]
            scale = np.sqrt(np.mean(templates**2))
            signs = signs_of(name, templates[0].size, delta.size - len(templates)).reshape(-1, *templates[0].shape)
            result += np.tensordot(delta[: len(templates)], templates, axes=1)
            result += np.tensordot(delta[len(templates) :] * scale, signs, axes=1)
        return result

    x = (x.astype(np.float64) - np.reshape(spec.mean, (1, -1, 1, 1))) / np.reshape(spec.std, (1, -1, 1, 1))
    z = hard_swish(bn(patches(x, wide["input_adapter.weight"]), "input_adapter"))
    for layer in range(spec.layers):
        name = f"layer{layer:02d}"
        y = hard_swish(bn(pointwise(z, mixed(layer, "expand.weight")), f"{name}.expand"))
        y = hard_swish(bn(depthwise(y, mixed(layer, "depthwise.weight")), f"{name}.depthwise"))
        pooled = y.mean(axis=(2, 3), keepdims=True)
        s = np.maximum(
            pointwise(pooled, mixed(layer, "squeeze.weight")) + mixed(layer, "squeeze.bias")[:, None, None], 0
        )
        gate = hard_sigmoid(pointwise(s, mixed(layer, "excite.weight")) + mixed(layer, "excite.bias")[:, None, None])
        z = z + bn(pointwise(y * gate, mixed(layer, "project.weight")), f"{name}.project")
    pooled = hard_swish(bn(pointwise(z, wide["output_adapter.weight"]), "output_adapter")).mean(axis=(2, 3))
    embedded = hard_swish(pooled @ wide["embedding.weight"].T + wide["embedding.bias"])
    logits: Array = embedded @ wide["logits.weight"].T + wide["logits.bias"]
    return logits.astype(np.float32)
