"""Forward and backward pass of the folded network: gradients of a loss with respect to all folded weights.

Blocks run in ONNX Runtime, with two graphs that ``isoform compile`` exported once for all layers (``compile/kinds/mixture/block.py``); the
adapters, the embedding and the logits layer are matrix products over pixels, for which numpy is as fast. BN is folded, with its running
statistics. Between the passes each block's input and the outputs of two convolutions are kept, L · (C + 2E) values per pixel and
sample; recomputing them would take a fifth more time. A vector-Jacobian product needs the activations of ``BATCH`` samples of one block.

With u the pixels after an affine map and ω the hard swish, whose slope is ω'(u) = u/3 + 1/2 inside (-3, 3), else 0 or 1:

    stem     z₀ = ω(patches Wᵀ + b)
    head     e = ω(mean(ω(z_L Wₒᵀ + bₒ)) Wₑᵀ + bₑ),   logits = e Vᵀ + c
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.mixture.learn.arrange import forward_feeds, named_gradients, vjp_feeds
from isoform.runtime.kinds.mixture.learn.blocks import Blocks
from isoform.runtime.kinds.mixture.learn.lanes import run
from isoform.runtime.kinds.mixture.reference import hard_swish
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.learner import BATCH

__all__ = ["FoldedNetwork", "Kept", "channels_first", "cut_patches"]


@dataclasses.dataclass(frozen=True)
class Kept:
    """Activations of a forward pass that the backward pass needs."""

    patches: Array
    """Samples as patches for the stem, (n · pixels, channels · kernel)."""
    stem: Array
    """The stem before its activation, (n · pixels, C)."""
    blocks: tuple[dict[str, Array], ...]
    """Each block's input ``x`` and the other activations that its backward pass needs; empty if gradients are not needed."""
    last: Array
    """The last block's output, (n, C, height, width)."""
    out: Array
    """The output adapter before its activation, (n, pixels, H)."""
    pooled: Array
    embedding: Array
    """The embedding before its activation, (n, embedding)."""

    @property
    def features(self) -> Array:
        """The input of the logits layer, (n, embedding)."""
        return hard_swish(self.embedding)


class FoldedNetwork:
    """Runs the network with folded weights, and computes their gradients. Holds no weights; thread-safe.

    Args:
        spec: The network's sizes.
        blocks: The result of ``open_blocks``.
    """

    def __init__(self, spec: NetworkSpec, blocks: Blocks) -> None:
        self._spec = spec
        self._forward, self._vjp, self._lanes = blocks.forward, blocks.vjp, blocks.lanes
        self._outputs = [entry.name for entry in self._forward.get_outputs()]
        self._gradients = [entry.name for entry in self._vjp.get_outputs()]

    def forward(self, weights: Mapping[str, Array], x: Array, *, keep: bool = True) -> tuple[Array, Kept]:
        """Run the forward pass.

        Args:
            weights: The result of ``fold``, including the logits layer.
            x: Samples, shape (n, channels, height, width), float32.
            keep: False to discard the blocks' activations.

        Returns:
            Logits, shape (n, classes), float32; and the activations for the backward pass.
        """
        spec, patches = self._spec, cut_patches(self._spec, x)
        stem = patches @ weights["input_adapter.weight"].reshape(spec.channels, -1).T + weights["input_adapter.bias"]
        z, blocks = channels_first(hard_swish(stem), len(x), spec.grid), []
        names = self._outputs if keep else self._outputs[:1]
        for feed in forward_feeds(spec, weights, self._lanes):
            output, *rest = run(self._forward, {"x": z, **feed}, names)
            if keep:
                blocks.append({"x": z, **dict(zip(self._outputs[1:], rest, strict=True))})
            z = output
        pixels = z.reshape(len(x), spec.channels, -1).transpose(0, 2, 1)
        out = pixels @ weights["output_adapter.weight"][:, :, 0, 0].T + weights["output_adapter.bias"]
        pooled = hard_swish(out).mean(axis=1)
        embedding = pooled @ weights["embedding.weight"].T + weights["embedding.bias"]
        kept = Kept(patches, stem, tuple(blocks), z, out, pooled, embedding)
        return kept.features @ weights["logits.weight"].T + weights["logits.bias"], kept

    def backward(self, weights: Mapping[str, Array], kept: Kept, g: Array) -> dict[str, Array]:
        """Run the backward pass.

        Args:
            weights: As in ``forward``.
            kept: The activations that ``forward`` returned.
            g: dL/d logits, shape (n, classes), float32.

        Returns:
            Name → gradient of every weight except the embedding's, which is the same for every signature.
        """
        spec, gradients = self._spec, dict[str, Array]()
        gradients["logits.weight"], gradients["logits.bias"] = g.T @ kept.features, g.sum(axis=0)
        g = (g @ weights["logits.weight"]) * _swish_slope(kept.embedding)
        g = (g @ weights["embedding.weight"])[:, None, :] / np.float32(kept.out.shape[1]) * _swish_slope(kept.out)
        last = kept.last
        pixels = last.reshape(len(last), spec.channels, -1).transpose(0, 2, 1).reshape(-1, spec.channels)
        flat = g.reshape(-1, spec.head_channels)
        gradients["output_adapter.weight"] = (flat.T @ pixels)[:, :, None, None]
        gradients["output_adapter.bias"] = flat.sum(axis=0)
        g = channels_first(flat @ weights["output_adapter.weight"][:, :, 0, 0], len(last), spec.grid)
        feeds = vjp_feeds(spec, weights, self._lanes)
        for layer in reversed(range(spec.layers)):
            g, found = self._product({**kept.blocks[layer], "g": g}, feeds[layer])
            gradients.update({f"layer{layer:02d}.{name}": gradient for name, gradient in found.items()})
        flat = g.transpose(0, 2, 3, 1).reshape(-1, spec.channels) * _swish_slope(kept.stem)
        gradients["input_adapter.weight"] = (flat.T @ kept.patches).reshape(spec.shared_shapes["input_adapter.weight"])
        gradients["input_adapter.bias"] = flat.sum(axis=0)
        return gradients

    def _product(self, features: dict[str, Array], weights: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Compute a block's vector-Jacobian product: dL/dx, and every weight's gradient, summed over the samples."""
        rows, sums, samples = list[Array](), dict[str, Array](), len(features["x"])
        for start in range(0, samples, BATCH):
            some = {name: array[start : start + BATCH] for name, array in features.items()}
            # the graph has a fixed batch size; padding with gradient 0 adds nothing to the sums
            if missing := BATCH - len(some["x"]):
                some = {name: np.pad(a, ((0, missing), *((0, 0),) * (a.ndim - 1))) for name, a in some.items()}
            found = dict(zip(self._gradients, run(self._vjp, {**some, **weights}), strict=True))
            rows.append(found.pop("x.gradient"))
            sums = {name: sums[name] + value for name, value in found.items()} if sums else found
        return np.concatenate(rows)[:samples], named_gradients(self._spec, sums, self._lanes)


def cut_patches(spec: NetworkSpec, x: Array) -> Array:
    """Cut samples (n, channels, height, width) into patches for the stem: (n · pixels, channels · kernel)."""
    (height, width), (kh, kw) = spec.grid, spec.adapter_kernel
    # kernel = stride: patches do not overlap, so the convolution is one matrix product
    cut = x.reshape(len(x), spec.input_shape[0], height, kh, width, kw).transpose(0, 2, 4, 1, 3, 5)
    return cut.reshape(len(x) * height * width, -1)


def channels_first(rows: Array, samples: int, grid: tuple[int, int]) -> Array:
    """Convert (n · pixels, channels) to (n, channels, height, width), C-contiguous."""
    return np.ascontiguousarray(rows.reshape(samples, *grid, -1).transpose(0, 3, 1, 2))


def _swish_slope(u: Array) -> Array:
    """Compute ω'(u), the derivative of the hard swish."""
    result: Array = np.clip(u, -3, 3)
    result *= np.float32(1 / 3)
    result += np.float32(0.5)
    # at ±3 the outer slope, as in the blocks' graphs
    result[u <= -3] = 0
    result[u >= 3] = 1
    return result
