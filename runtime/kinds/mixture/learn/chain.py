"""Backward pass of the fold: from gradients of folded weights to gradients of a signature's parts.

``fold.py`` computes W'_ℓ = s_ℓ (Σ_k ξ_ℓk θ_k) and b'_ℓ = t_ℓ with s = γ / √(var + ε), t = β - mean · s; so with G = dL/dW', g = dL/db'

    dL/dξ_ℓk = ⟨s_ℓ G_ℓ, θ_k⟩                              one matrix product over all layers, (L, P) @ (P, K)
    dL/dλ_ℓ  = ξ_ℓ (dL/dξ_ℓ - ⟨ξ_ℓ, dL/dξ_ℓ⟩)              λ the logits, through the softmax
    dL/dδ_ℓ  = dL/dξ_ℓ for the templates, ⟨s_ℓ G_ℓ, r_j⟩ for the random directions (``directions.py``), times ``STEP``
    dL/ds    = ⟨G, W'⟩ / s per output channel, with W' / s the mixed weights;      dL/dt = g
    dL/dγ    = (dL/ds - mean · dL/dt) / √(var + ε)         dL/dβ = dL/dt
    dL/dp    = -σ s dL/dt,   dL/dq = -γ dL/dγ              what ``bn.coefficients`` move mean and deviation by (``normalisation.py``);
    dL/dz_j  = Σ_c p_jc dL/dp_c + q_jc dL/dq_c             mean and √(var + ε) above are the moved ones, σ is the one before

The input normalisation is differentiated in the same way: W'' = W' / std, b'' = t - Σ W'' · mean. If γ and β are mixed from the
templates (``affine = "mixed"``) and the signature has none of its own, their gradient is passed on to ξ.
Products over templates are float64. Source: Compositional Models, section 3.2, and the chain rule.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array, softmax
from isoform.runtime.kinds.mixture.directions import STEP, directions
from isoform.runtime.kinds.mixture.fold import mix, row_shapes, template_matrix
from isoform.runtime.kinds.mixture.normalisation import bn_directions, bn_scale_shift, mean_and_deviation
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = ["signature_gradient"]


def signature_gradient(
    spec: NetworkSpec,
    tensors: Mapping[str, Array],
    parts: Mapping[str, Array],
    gradients: Mapping[str, Array],
    *,
    own_affine: bool = True,
) -> dict[str, Array]:
    """Compute the gradients of a signature's parts.

    Args:
        spec: The network's sizes.
        tensors: The arrays of ``templates.safetensors``.
        parts: All parts, as ``Bundle.resolve`` returns them.
        gradients: The result of ``FoldedNetwork.backward`` for ``fold(spec, tensors, parts)``.
        own_affine: False if γ and β are mixed from the templates (``affine = "mixed"``), so that they depend on ξ.

    Returns:
        ``mixture`` (L, K), ``bn.affine`` (2, N), ``logits.weight``, ``logits.bias``; and ``delta`` (L, K + J) and
        ``bn.coefficients`` (D,), if they are of floats. float64, each of its part's shape.
    """
    theta, places = template_matrix(spec, tensors), spec.bn_slices
    scale, _ = bn_scale_shift(spec, tensors, parts)
    blocks, xi = mix(spec, theta, parts), softmax(parts["mixture"])
    d_scale, d_shift = np.zeros(spec.bn_channels), np.zeros(spec.bn_channels)
    layers, columns = range(spec.layers), []
    for name in row_shapes(spec):
        part = name.removesuffix(".weight")
        gradient = np.stack([gradients[f"layer{layer:02d}.{name}"] for layer in layers]).reshape(spec.layers, -1)
        if f"layer00.{part}" in places:
            first, width = (
                np.array([places[f"layer{layer:02d}.{part}"].start for layer in layers]),
                blocks[name].shape[1],
            )
            channels = first[:, None] + np.arange(width)
            rows = gradient.reshape(spec.layers, width, -1)
            # ⟨G, mixed weights⟩ per output channel; ``channels``, (L, width), are places among the N
            d_scale[channels] = np.einsum("lcw,lcw->lc", rows, blocks[name].reshape(rows.shape))
            d_shift[channels] = np.stack([gradients[f"layer{layer:02d}.{part}.bias"] for layer in layers])
            # from dL/dW' to the gradient of the mixed weights, which ξ multiplies
            gradient = (rows * scale[channels].astype(np.float32)[:, :, None]).reshape(spec.layers, -1)
        columns.append(gradient)
    # float64, because each entry is a sum over all P weights of a block
    joined = np.concatenate(columns, axis=1)
    d_xi = joined.astype(np.float64) @ theta.astype(np.float64).T
    found = dict[str, Array]()
    # whole numbers: a signature's, which is not trained
    if "delta" in parts and parts["delta"].dtype.kind == "f":
        random = joined @ directions(theta, row_shapes(spec), spec.random_directions).T
        found["delta"] = STEP * np.concatenate([d_xi, random], axis=1)
    mean, std = (np.asarray(value)[None, :, None, None] for value in (spec.mean, spec.std))
    # only the input adapter contains the normalisation: mean 0 and std 1 for the other
    for name, offset, factor in (("input_adapter", mean, std), ("output_adapter", 0.0, 1.0)):
        d_shift[places[name]] = gradients[f"{name}.bias"]
        # b'' depends on W'', too: with mean ≠ 0 a part of its gradient belongs to the weight
        gradient = gradients[f"{name}.weight"] - d_shift[places[name], None, None, None] * offset
        d_scale[places[name]] = (gradient * tensors[f"{name}.weight"] / factor).sum(axis=(1, 2, 3))
    running_mean, deviation = mean_and_deviation(spec, tensors, parts)
    d_gamma = (d_scale - running_mean * d_shift) / deviation
    d_affine = np.stack([d_gamma, d_shift])
    if "bn.coefficients" in parts and parts["bn.coefficients"].dtype.kind == "f":
        before = np.sqrt(parts["bn.statistics"][1].astype(np.float64) + spec.bn_eps)
        d_moved = np.stack([-before * scale * d_shift, -parts["bn.affine"][0] * d_gamma])
        found["bn.coefficients"] = STEP * np.tensordot(bn_directions(tensors), d_moved, axes=2)
    if spec.affine == "mixed" and not own_affine:
        body = d_affine[:, spec.channels : -spec.head_channels].reshape(2, spec.layers, -1).transpose(1, 0, 2)
        bank = tensors["template.bn.affine"].reshape(spec.templates, -1).astype(np.float64)
        d_xi += body.reshape(spec.layers, -1) @ bank.T
    return {
        **found, "mixture": xi * (d_xi - (xi * d_xi).sum(axis=1, keepdims=True)), "bn.affine": d_affine,
        "logits.weight": gradients["logits.weight"].astype(np.float64), "logits.bias": gradients["logits.bias"].astype(np.float64),
    }  # fmt: skip
