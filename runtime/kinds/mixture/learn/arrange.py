"""Conversion of folded weights to the input shapes of the block's graphs, and of gradients back to the weights' shapes.

Inside the graphs, transposing and reshaping small tensors would take a tenth of the run time; here it is done once, for all
layers together. With lanes, the depthwise kernel is in the blocked layout: (E, 1, k, k) → (E/B, B, k²) → (E/B, k², B), with channels
padded with zeros to a multiple of B. The backward pass uses the kernel rotated by 180°.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = ["filled", "filled_up", "forward_feeds", "named_gradients", "unfolded_feeds", "vjp_feeds"]

Feeds = list[dict[str, Array]]
"""For each layer: graph input → array."""


def filled(spec: NetworkSpec, lanes: int | None) -> int:
    """Return E, padded to a multiple of the lanes."""
    return spec.expanded if lanes is None else -(-spec.expanded // lanes) * lanes


def filled_up(spec: NetworkSpec, values: Array, lanes: int | None) -> Array:
    """Pad one value per channel, shape (…, E), with zeros to the size of ``filled``."""
    result = np.zeros((*values.shape[:-1], filled(spec, lanes)), dtype=values.dtype)
    result[..., : values.shape[-1]] = values
    return result


def forward_feeds(spec: NetworkSpec, weights: Mapping[str, Array], lanes: int | None) -> Feeds:
    """Return the inputs of ``block_forward.onnx`` besides x, for every layer.

    Args:
        spec: The network's sizes.
        weights: The result of ``fold``.
        lanes: Group size of the blocked layout; None for the plain graphs.
    """
    biases = {f"{part}.bias": _stacked(spec, weights, f"{part}.bias") for part in ("expand", "depthwise", "project")}
    return _split(
        {
            **_shared(spec, weights, lanes),
            **biases,
            "depthwise.bias": filled_up(spec, biases["depthwise.bias"], lanes),
            # the projection is a matrix product per sample, so its bias is added by broadcasting
            "project.bias": biases["project.bias"].reshape(-1, 1, spec.channels, 1, 1),
        }
    )


def unfolded_feeds(spec: NetworkSpec, blocks: Mapping[str, Array], lanes: int | None) -> Feeds:
    """Return the weight inputs of the graphs of ``compile/kinds/mixture/block_stages.py``, for every layer; ``blocks`` is the result of ``mix``."""
    each = {f"layer{layer:02d}.{name}": array[layer] for name, array in blocks.items() for layer in range(spec.layers)}
    return _split(_shared(spec, each, lanes))


def vjp_feeds(spec: NetworkSpec, weights: Mapping[str, Array], lanes: int | None) -> Feeds:
    """Return the weight inputs of ``block_vjp.onnx``, for every layer."""
    c, e, r = spec.channels, spec.expanded, spec.squeezed
    turned = _stacked(spec, weights, "depthwise.weight")[..., ::-1, ::-1]
    return _split(
        {
            "expand.transposed": _stacked(spec, weights, "expand.weight").transpose(0, 2, 1, 3, 4),
            "depthwise.turned": _kernels(spec, turned, lanes),
            "squeeze.weight": _stacked(spec, weights, "squeeze.weight").reshape(-1, r, e),
            "excite.weight": _stacked(spec, weights, "excite.weight").reshape(-1, e, r),
            "project.transposed": _stacked(spec, weights, "project.weight").reshape(-1, c, e).transpose(0, 2, 1),
        }
    )


def named_gradients(spec: NetworkSpec, found: Mapping[str, Array], lanes: int | None) -> dict[str, Array]:
    """Convert the outputs of ``block_vjp.onnx`` to gradients of a layer's folded weights, each of its weight's shape."""
    c, e, r, k = spec.channels, spec.expanded, spec.squeezed, spec.kernel
    # (E/B, k², B) → (E/B, B, k²); the channels of the padding come last, so [:e] below cuts them off
    kernel = found["depthwise"]
    if lanes is not None:
        kernel = kernel.reshape(-1, k * k, lanes).transpose(0, 2, 1)
    # the graph appends a row of ones to x, so the last column is the bias's gradient
    expand = found["expand"].reshape(e, c + 1)
    return {
        "expand.weight": expand[:, :c].reshape(e, c, 1, 1), "expand.bias": expand[:, c],
        "depthwise.weight": kernel.reshape(-1, 1, k, k)[:e], "depthwise.bias": found["depthwise.bias"],
        "squeeze.weight": found["squeeze"].reshape(r, e, 1, 1), "squeeze.bias": found["squeeze.bias"],
        "excite.weight": found["excite"].reshape(e, r, 1, 1), "excite.bias": found["excite.bias"],
        # the graph computes y gᵀ, the transpose
        "project.weight": found["project"].reshape(e, c).T.reshape(c, e, 1, 1), "project.bias": found["project.bias"],
    }  # fmt: skip


def _kernels(spec: NetworkSpec, weight: Array, lanes: int | None) -> Array:
    """Convert the depthwise kernels of all layers, shape (L, E, 1, k, k), to the graphs' layout."""
    if lanes is None:
        return weight
    k, size = spec.kernel, filled(spec, lanes)
    rows = np.zeros((len(weight), size, k * k), dtype=np.float32)
    rows[:, : spec.expanded] = weight.reshape(len(weight), spec.expanded, k * k)
    blocked = rows.reshape(-1, size // lanes, lanes, k * k).transpose(0, 1, 3, 2)
    return blocked.reshape(-1, size, 1, k, k)


def _shared(spec: NetworkSpec, weights: Mapping[str, Array], lanes: int | None) -> dict[str, Array]:
    c, e, r = spec.channels, spec.expanded, spec.squeezed
    return {
        "expand.weight": _stacked(spec, weights, "expand.weight"),
        "depthwise.weight": _kernels(spec, _stacked(spec, weights, "depthwise.weight"), lanes),
        "squeeze.weight": _stacked(spec, weights, "squeeze.weight").reshape(-1, r, e),
        "squeeze.bias": _stacked(spec, weights, "squeeze.bias"),
        "excite.weight": _stacked(spec, weights, "excite.weight").reshape(-1, e, r),
        "excite.bias": _stacked(spec, weights, "excite.bias"),
        "project.weight": _stacked(spec, weights, "project.weight").reshape(-1, 1, c, e),
    }


def _stacked(spec: NetworkSpec, weights: Mapping[str, Array], name: str) -> Array:
    return np.stack([weights[f"layer{layer:02d}.{name}"] for layer in range(spec.layers)])


def _split(stacked: Mapping[str, Array]) -> Feeds:
    # once for all layers: each layer is then a contiguous view
    arrays = {name: np.ascontiguousarray(array) for name, array in stacked.items()}
    return [{name: array[layer] for name, array in arrays.items()} for layer in range(len(next(iter(arrays.values()))))]
