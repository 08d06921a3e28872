"""Rules of pools, softmax and normalisation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx

from isoform.compile.gradients.products import Window, window_of
from isoform.compile.gradients.reverse import Reverse, Rule

__all__ = ["RULES"]

LOW = -3e38
"""Below every value of a feature map: padding that is never a maximum."""


def _global_average(r: Reverse, node: onnx.NodeProto) -> None:
    shape = r.shapes[node.input[0]]
    g = r.new("Mul", r.gradient(node), r.number(1 / math.prod(shape[2:])))
    r.give(node.input[0], r.new("Expand", g, r.integers(shape)), shape)


def _average(r: Reverse, node: onnx.NodeProto) -> None:
    window, shape = window_of(r, node), r.shapes[node.input[0]]
    channels, area = shape[1], math.prod(window.kernel)
    counted = r.attributes(node).get("count_include_pad", 0) or not any(window.pads)
    counts = np.full((1, 1, *window.outside), area, dtype=np.float32) if counted else _counts(window.sides, window)
    g = r.new("Mul", r.gradient(node), r.array(1 / counts, f"1 / counts of {node.name}"))
    ones = r.array(np.ones((channels, 1, *window.kernel), dtype=np.float32), f"ones {(channels, 1, *window.kernel)}")
    r.give(node.input[0], window.transposed(r, g, ones, channels), shape)


def _counts(sides: tuple[int, ...], window: Window) -> np.ndarray:
    """Return how many numbers, not padding, each window reads, shape (1, 1, …)."""
    per_axis = [
        [
            sum(0 <= out * stride + index * dilation - before < side for index in range(size))
            for out in range(outside)
        ]
        for side, outside, stride, dilation, size, before in zip(
            sides, window.outside, window.strides, window.dilations, window.kernel, window.pads, strict=False
        )
    ]  # fmt: skip
    counts = np.ones((), dtype=np.float32)
    for axis in per_axis:
        counts = np.multiply.outer(counts, np.array(axis, dtype=np.float32))
    return counts[None, None].astype(np.float32)


def _maximum(r: Reverse, node: onnx.NodeProto) -> None:
    """The gradient goes to the first of the largest numbers of each window, as in torch.

    A convolution with kernels of a single 1 lays the numbers of each window side by side; its transpose puts gradients back.
    """
    window, (samples, channels, *sides) = window_of(r, node), r.shapes[node.input[0]]
    axes, area = len(window.kernel), math.prod(window.kernel)
    single = np.zeros((area, 1, *window.kernel), dtype=np.float32)
    for number, place in enumerate(itertools.product(*map(range, window.kernel))):
        single[(number, 0, *place)] = 1
    kernels = r.array(np.tile(single, (channels, *(1,) * (axes + 1))), f"places of {window.kernel} times {channels}")
    padding = [0, 0, *window.pads[:axes], 0, 0, *window.pads[axes:]]
    x = r.new("Pad", node.input[0], r.integers(padding), r.number(LOW)) if any(window.pads) else node.input[0]
    seen = r.new(
        "Conv",
        x,
        kernels,
        strides=window.strides,
        dilations=window.dilations,
        group=channels,
        kernel_shape=window.kernel,
    )
    apart = (samples, channels, area, *window.outside)
    best = r.new("ArgMax", r.shaped(seen, apart), axis=2, keepdims=1)
    numbers = r.integers(np.arange(area).reshape(1, 1, area, *(1,) * axes))
    chosen = r.truth("Equal", best, numbers)
    g = r.new("Mul", chosen, r.shaped(r.gradient(node), (samples, channels, 1, *window.outside)))
    g = r.shaped(g, (samples, channels * area, *window.outside))
    r.give(node.input[0], window.transposed(r, g, kernels, channels), (samples, channels, *sides))


def _axis_of(r: Reverse, node: onnx.NodeProto) -> list[int]:
    return [int(r.attributes(node).get("axis", -1)) % len(r.shapes[node.input[0]])]


def _softmax(r: Reverse, node: onnx.NodeProto) -> None:
    """dx = y (g - Σ g y)."""
    y, g = node.output[0], r.gradient(node)
    r.give(node.input[0], r.new("Mul", y, r.new("Sub", g, r.total(r.new("Mul", g, y), _axis_of(r, node)))), r.shapes[y])


def _log_softmax(r: Reverse, node: onnx.NodeProto) -> None:
    """dx = g - exp(y) Σ g."""
    y, g = node.output[0], r.gradient(node)
    r.give(node.input[0], r.new("Sub", g, r.new("Mul", r.new("Exp", y), r.total(g, _axis_of(r, node)))), r.shapes[y])


def _normalised(r: Reverse, x: str, axes: list[int], eps: float) -> tuple[str, str]:
    """Return (x - mean) / deviation over axes, and 1 / deviation."""
    centred = r.new("Sub", x, r.mean(x, axes))
    variance = r.mean(r.new("Mul", centred, centred), axes)
    inverse = r.new("Reciprocal", r.new("Sqrt", r.new("Add", variance, r.number(eps))))
    return r.new("Mul", centred, inverse), inverse


def _norm_gradient(r: Reverse, g: str, normal: str, inverse: str, axes: list[int]) -> str:
    """dx = (g - mean g - n mean(g n)) / deviation, with g that of the normalised n."""
    along = r.new("Mul", normal, r.mean(r.new("Mul", g, normal), axes))
    return r.new("Mul", r.new("Sub", r.new("Sub", g, r.mean(g, axes)), along), inverse)


def _layer_norm(r: Reverse, node: onnx.NodeProto) -> None:
    x, gamma, *beta = node.input
    shape, g = r.shapes[x], r.gradient(node)
    axes = [*range(_axis_of(r, node)[0], len(shape))]
    normal, inverse = _normalised(r, x, axes, float(r.attributes(node).get("epsilon", 1e-5)))
    for name in beta:
        r.give(name, g, shape)
    if r.wants(gamma):
        r.give(gamma, r.new("Mul", g, normal), shape)
    if r.wants(x):
        r.give(x, _norm_gradient(r, r.new("Mul", g, gamma), normal, inverse, axes), shape)


def _instance_norm(r: Reverse, node: onnx.NodeProto) -> None:
    x, gamma, beta = node.input
    shape, g = r.shapes[x], r.gradient(node)
    axes, outer = [*range(2, len(shape))], [0, *range(2, len(shape))]
    normal, inverse = _normalised(r, x, axes, float(r.attributes(node).get("epsilon", 1e-5)))
    if r.wants(beta):
        r.give(beta, r.shaped(r.total(g, outer), r.shapes[beta]), r.shapes[beta])
    if r.wants(gamma):
        r.give(gamma, r.shaped(r.total(r.new("Mul", g, normal), outer), r.shapes[gamma]), r.shapes[gamma])
    if r.wants(x):
        column = r.shaped(gamma, (shape[1], *(1,) * len(axes)))
        r.give(x, _norm_gradient(r, r.new("Mul", g, column), normal, inverse, axes), shape)


RULES: dict[str, Rule] = {
    "GlobalAveragePool": _global_average, "AveragePool": _average, "MaxPool": _maximum, "Softmax": _softmax, "LogSoftmax": _log_softmax,
    "LayerNormalization": _layer_norm, "InstanceNormalization": _instance_norm,
}  # fmt: skip
