"""A forward pass with BN statistics chosen by a callback, the basis of all methods that compute statistics.

For each BN layer, in order, the callback receives the moments of its input for these samples, and returns the statistics to
normalise with; later layers see the result. With u the convolution's output and m₀ the given mean:

    s̄ᵢ = mean over pixels of (u - m₀),    s²ᵢ = mean over pixels of (u - m₀)²        for every sample i and channel

Blocks run in ONNX Runtime (``compile/kinds/mixture/block_stages.py``), in slices, because its arena keeps the peak memory of the
largest run; the adapters run in numpy. All samples pass a block before the next one, because statistics are over all samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.batches import slice_samples, slices
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.kinds.mixture.fold import mix, template_matrix
from isoform.runtime.kinds.mixture.learn.arrange import filled_up, unfolded_feeds
from isoform.runtime.kinds.mixture.learn.blocks import Blocks
from isoform.runtime.kinds.mixture.learn.lanes import run
from isoform.runtime.kinds.mixture.learn.network import channels_first, cut_patches
from isoform.runtime.kinds.mixture.reference import hard_swish
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.learner import Choose, Moments, Pass

__all__ = ["normalised_pass"]


def normalised_pass(
    spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array], x: Array, *, run_on: Blocks, choose: Choose
) -> Pass:  # fmt: skip
    """Run the forward pass.

    Args:
        spec: The network's sizes.
        tensors: The arrays of ``templates.safetensors``.
        parts: All parts of a signature, as ``Bundle.resolve`` returns them; m₀ is the mean in its statistics.
        x: Samples, shape (n, channels, height, width), float32, not normalised.
        run_on: The result of ``open_blocks``.
        choose: The callback, called once per BN layer, in order.
    """
    affine, given = (parts[name].astype(np.float32) for name in ("bn.affine", "bn.statistics"))
    blocks, places = mix(spec, template_matrix(spec, tensors), parts), spec.bn_slices
    chosen, pixels, cut = (
        np.empty_like(given),
        math.prod(spec.grid),
        slices(len(x), slice_samples(spec, "", x.shape[1:])),
    )

    def chosen_for(place: slice, moments: Moments) -> tuple[Array, Array]:
        mean, variance = (np.asarray(value, dtype=np.float32) for value in choose(place, moments))
        chosen[:, place] = given[0, place] + mean, variance
        return mean, variance

    def normalised(u: Array, name: str) -> Array:
        """Apply a BN layer in numpy to a convolution's output u, shape (n, pixels, channels)."""
        place = places[name]
        # moments about the given mean: about 0, squares would lose digits where the mean is large
        u = u - given[0, place]
        moments = Moments(u.mean(axis=1), np.einsum("npc,npc->nc", u, u) / np.float32(pixels))
        mean, variance = chosen_for(place, moments)
        scale = affine[0, place] / np.sqrt(variance + np.float32(spec.bn_eps))
        result: Array = u * scale + (affine[1, place] - mean * scale)
        return result

    def step(session: ort.InferenceSession, name: str, feed: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Run one of a block's graphs; return its output, and the BN parameters for it."""
        place = places[name]
        rows = next(iter(feed))  # the only input with a row per sample comes first
        parts = [run(session, {**feed, rows: feed[rows][part]}) for part in cut]
        u, means, squares = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        del parts  # frees the slices: only their concatenation is needed
        mean, variance = chosen_for(place, Moments(means, squares / np.float32(pixels)))
        return u, {"gamma": affine[0, place], "beta": affine[1, place], "mean": mean, "variance": variance}

    mean, std = (np.asarray(value, dtype=np.float32)[:, None, None] for value in (spec.mean, spec.std))
    kernel = tensors["input_adapter.weight"].reshape(spec.channels, -1).T
    stem = (cut_patches(spec, (x - mean) / std) @ kernel).reshape(len(x), pixels, -1)
    z = channels_first(hard_swish(normalised(stem, "input_adapter")), len(x), spec.grid)
    for layer, weights in enumerate(unfolded_feeds(spec, blocks, run_on.lanes)):
        expand, depthwise, project = names = [f"layer{layer:02d}.{part}" for part in ("expand", "depthwise", "project")]
        # the graphs add it as the convolution's bias, so subtracting m₀ costs nothing
        centres = [-given[0, places[name]] for name in names]
        feed = {"x": z, "expand.weight": weights["expand.weight"], "centre": centres[0]}
        u, bn = step(run_on.expand, expand, feed)
        centre = filled_up(spec, centres[1], run_on.lanes)
        u, bn = step(
            run_on.depthwise,
            depthwise,
            {"u": u, **bn, "depthwise.weight": weights["depthwise.weight"], "centre": centre},
        )
        rest = {n: array for n, array in weights.items() if not n.startswith(("expand", "depthwise"))}
        u, bn = step(run_on.project, project, {"u": u, **bn, **rest, "centre": centres[2].reshape(1, -1, 1, 1)})
        scale = bn["gamma"] / np.sqrt(bn["variance"] + np.float32(spec.bn_eps))
        # No graph follows the block's last BN. In place: nothing else reads u.
        u *= scale[:, None, None]
        u += (bn["beta"] - bn["mean"] * scale)[:, None, None]
        z = z + u
    rows = z.reshape(len(x), spec.channels, -1).transpose(0, 2, 1)
    out = normalised(rows @ tensors["output_adapter.weight"][:, :, 0, 0].T, "output_adapter")
    pooled = hard_swish(out).mean(axis=1)
    embeddings = hard_swish(pooled @ tensors["embedding.weight"].T + tensors["embedding.bias"])
    logits = embeddings @ parts["logits.weight"].T + parts["logits.bias"]
    return Pass(chosen, logits.astype(np.float32), embeddings)
