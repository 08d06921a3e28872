"""BN's running statistics of a user's samples: a forward pass in training mode, layer by layer, each seeing what the new ones make.

    m = (1 - α) m_given + α mean(u),    v = (1 - α) v_given + α var(u)

u a convolution's output over all samples and pixels, the variance biased. α = 1 forgets the given statistics, 0 keeps them.
Blocks run in ONNX Runtime (``compile/block.py``), the adapters in numpy. All samples go through a block at once.
Source: Schneider et al. 2020, "Improving robustness against common corruptions by covariate shift adaptation", section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isoform.runtime.fold import mix, template_matrix
from isoform.runtime.learn.arrange import unfolded_feeds
from isoform.runtime.learn.blocks import Blocks
from isoform.runtime.learn.layout import run
from isoform.runtime.learn.network import channels_first, cut_patches
from isoform.runtime.reference import hard_swish
from isoform.runtime.spec import Array, NetworkSpec

__all__ = ["estimate_statistics"]


def estimate_statistics(
    spec: NetworkSpec,
    tensors: Mapping[str, Array],
    parts: Mapping[str, Array],
    x: Array,
    *,
    run_on: Blocks,
    alpha: float = 1.0,
) -> tuple[Array, Array]:
    """BN statistics of samples, blended with those of a signature; and the logits of that pass.

    Args:
        spec: The network's sizes.
        tensors: ``templates.safetensors``' arrays.
        parts: All five parts of a signature, as ``Bundle.resolve`` returns them.
        x: Samples, shape (n, channels, height, width), float32, not normalised. n times pixels should be in the hundreds at least.
        run_on: What ``open_blocks`` returned.
        alpha: α, 0 to 1.

    Returns:
        Mean and variance of every BN channel, shape (2, N), float32; logits, shape (n, classes), float32.
    """
    affine, given = (parts[name].astype(np.float32) for name in ("bn.affine", "bn.statistics"))
    blocks, places = mix(spec, template_matrix(spec, tensors), parts["mixture"]), spec.bn_slices
    new = np.empty_like(given)

    def normalised(u: Array, name: str) -> Array:
        place = places[name]
        found = np.stack([u.mean(axis=0, dtype=np.float64), u.var(axis=0, dtype=np.float64)])
        new[:, place] = (1 - alpha) * given[:, place] + alpha * found
        mean, variance = new[:, place]
        result: Array = (u - mean) * (affine[0, place] / np.sqrt(variance + np.float32(spec.bn_eps))) + affine[1, place]
        return result

    mean, std = (np.asarray(value, dtype=np.float32)[:, None, None] for value in (spec.mean, spec.std))
    stem = cut_patches(spec, (x - mean) / std) @ tensors["input_adapter.weight"].reshape(spec.channels, -1).T
    z = channels_first(hard_swish(normalised(stem, "input_adapter")), len(x), spec.grid)
    for layer, feed in enumerate(unfolded_feeds(spec, blocks, run_on.lanes)):
        first, last = places[f"layer{layer:02d}.expand"].start, places[f"layer{layer:02d}.project"].stop
        feed |= {"affine": affine[:, first:last].copy(), "statistics": given[:, first:last].copy()}
        z, new[:, first:last] = run(run_on.statistics, {"x": z, "alpha": np.array([alpha], dtype=np.float32), **feed})
    pixels = z.reshape(len(x), spec.channels, -1).transpose(0, 2, 1).reshape(-1, spec.channels)
    out = normalised(pixels @ tensors["output_adapter.weight"][:, :, 0, 0].T, "output_adapter")
    pooled = hard_swish(out).reshape(len(x), -1, spec.head_channels).mean(axis=1)
    embedding = hard_swish(pooled @ tensors["embedding.weight"].T + tensors["embedding.bias"])
    return new, embedding @ parts["logits.weight"].T + parts["logits.bias"]
