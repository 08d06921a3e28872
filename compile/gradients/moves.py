"""Rules of operators that move, repeat or sum numbers."""

from __future__ import annotations

import math

import numpy as np
import onnx

from isoform.compile.gradients.reverse import Reverse, Rule, Unsupported
from isoform.runtime.arrays import Array

__all__ = ["RULES"]


def _reshaped(r: Reverse, node: onnx.NodeProto) -> None:
    shape = r.shapes[node.input[0]]
    r.give(node.input[0], r.shaped(r.gradient(node), shape), shape)


def _transpose(r: Reverse, node: onnx.NodeProto) -> None:
    x, axes = node.input[0], len(r.shapes[node.input[0]])
    order = r.attributes(node).get("perm", [*reversed(range(axes))])
    r.give(x, r.new("Transpose", r.gradient(node), perm=np.argsort(order).tolist()), r.shapes[x])


def _expand(r: Reverse, node: onnx.NodeProto) -> None:
    r.give(node.input[0], r.gradient(node), r.shapes[node.output[0]])


def _axis(r: Reverse, node: onnx.NodeProto, default: int = 0) -> int:
    axis = r.attributes(node).get("axis", default)
    assert isinstance(axis, int)
    return axis % len(r.shapes[node.input[0]])


def _concat(r: Reverse, node: onnx.NodeProto) -> None:
    axis, g, start = _axis(r, node), r.gradient(node), 0
    for name in node.input:
        end = start + r.shapes[name][axis]
        if r.wants(name):
            r.give(name, _cut(r, g, axis, start, end), r.shapes[name])
        start = end


def _cut(r: Reverse, x: str, axis: int, start: int, end: int) -> str:
    return r.new("Slice", x, r.integers([start]), r.integers([end]), r.integers([axis]))


def _split(r: Reverse, node: onnx.NodeProto) -> None:
    parts = [r.gradient(node, place) for place in range(len(node.output))]
    r.give(node.input[0], r.new("Concat", *parts, axis=_axis(r, node)), r.shapes[node.input[0]])


def _slice(r: Reverse, node: onnx.NodeProto) -> None:
    """Zeros around the gradient, and between its numbers if the slice has steps."""
    shape, g = r.shapes[node.input[0]], r.gradient(node)
    starts, ends, axes, steps = (r.constant(node, place) for place in (1, 2, 3, 4))
    assert starts is not None
    assert ends is not None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), dtype=np.int64) if steps is None else steps
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        axis %= len(shape)
        places = np.arange(shape[axis])[start:end:step]
        if step == 1:
            g = _padded(r, g, len(shape), axis, int(places[0]), shape[axis] - int(places[-1]) - 1)
        else:
            g = _scattered(r, g, places, len(shape), axis, shape[axis])
    r.give(node.input[0], g, shape)


def _padded(r: Reverse, x: str, axes: int, axis: int, before: int, after: int) -> str:
    """Put zeros before and after the numbers along one of several axes."""
    if not before and not after:
        return x
    sizes = [0] * (2 * axes)
    sizes[axis], sizes[axes + axis] = before, after
    return r.new("Pad", x, r.integers(sizes), r.number(0.0))


def _scattered(r: Reverse, x: str, places: Array, axes: int, axis: int, size: int) -> str:
    """Write the numbers along an axis to these places of zeros, adding where a place occurs twice: a product with a matrix of 0 and 1."""
    order = [other for other in range(axes) if other != axis] + [axis]
    matrix = r.array((places[:, None] == np.arange(size)).astype(np.float32), f"places {places.tolist()} of {size}")
    product = r.new("MatMul", r.new("Transpose", x, perm=order), matrix)
    return r.new("Transpose", product, perm=np.argsort(order).tolist())


def _gather(r: Reverse, node: onnx.NodeProto) -> None:
    x, shape, axis = node.input[0], r.shapes[node.input[0]], _axis(r, node)
    if node.input[1] not in r.values:
        _embedding(r, node, axis)
        return
    places = r.values[node.input[1]] % shape[axis]
    g, kept = r.gradient(node), (*shape[:axis], places.size, *shape[axis + 1 :])
    g = r.shaped(g, kept)  # a single index drops the axis, several axes of indices add some
    flat = places.ravel()
    if np.array_equal(flat, np.arange(flat[0], flat[0] + len(flat))):
        g = _padded(r, g, len(shape), axis, int(flat[0]), shape[axis] - int(flat[-1]) - 1)
    else:
        g = _scattered(r, g, flat, len(shape), axis, shape[axis])
    r.give(x, g, shape)


def _embedding(r: Reverse, node: onnx.NodeProto, axis: int) -> None:
    """The gradient of a table of which rows are looked up."""
    table, indices = node.input
    if axis:
        raise Unsupported(f"Gather {node.name!r} along axis {axis}")
    shape, looked = r.shapes[table], r.shapes[indices]
    rows = r.new("Unsqueeze", indices, r.integers([len(looked)]))
    zeros = r.new("Expand", r.number(0.0), r.integers(shape))
    r.give(table, r.new("ScatterND", zeros, rows, r.gradient(node), reduction="add"), shape)


def _pad(r: Reverse, node: onnx.NodeProto) -> None:
    shape, sizes = r.shapes[node.input[0]], r.constant(node, 1)
    if sizes is None or sizes.min() < 0 or r.attributes(node).get("mode", b"constant") != b"constant":
        raise Unsupported(f"Pad {node.name!r} that repeats or crops")
    g = r.gradient(node)
    for axis, (before, size) in enumerate(zip(sizes.tolist(), shape, strict=False)):
        g = _cut(r, g, axis, before, before + size)
    r.give(node.input[0], g, shape)


def _reduced(r: Reverse, node: onnx.NodeProto) -> None:
    """Sums and means give their gradient to all, the largest and the smallest to those that are it, in equal parts."""
    x, shape = node.input[0], r.shapes[node.input[0]]
    given = r.attributes(node).get("axes")
    if given is None and node.op_type == "ReduceSum":
        found = r.constant(node, 1)
        given = None if found is None else found.tolist()
    axes = [axis % len(shape) for axis in (range(len(shape)) if given is None else given)]
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    g = r.shaped(r.gradient(node), kept)
    if node.op_type == "ReduceMean":
        g = r.new("Mul", g, r.number(1 / math.prod(shape[axis] for axis in axes)))
    if node.op_type in ("ReduceMax", "ReduceMin"):
        chosen = r.truth("Equal", x, r.shaped(node.output[0], kept))
        r.give(x, r.new("Mul", chosen, r.new("Div", g, r.total(chosen, axes))), shape)
        return
    r.give(x, r.new("Expand", g, r.integers(shape)), shape)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshaped), "Transpose": _transpose, "Expand": _expand, "Concat": _concat,
    "Split": _split, "Slice": _slice, "Gather": _gather, "Pad": _pad,
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduced),
}  # fmt: skip
