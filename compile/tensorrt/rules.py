"""Rewrite a graph so that every sample of a batch has weights of its own: one rule per operator that reads a private weight.

A private weight of shape s becomes a value of shape (n, s): row i belongs to sample i. Products become batched matrix products:

    Conv     y_i = W_i · patches(x_i) + b_i           W_i (g, O/g, C/g · k), patches (g, C/g · k, positions)
    Gemm     y_i = W_i x_i + b_i,   MatMul    y_i = x_i W_i

The patches of a convolution come from a convolution with constant one-hot kernels, which any engine runs fast; a 1×1 convolution needs
none. The axis of the samples is the one that is as long as their number, a prime that no other axis has (``Rewriter.rest``): whether
it is theirs is verified with numbers (``check.py``), not argued.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from isoform.compile.nodes import Nodes
from isoform.runtime.arrays import Array
from isoform.runtime.errors import CompileError

__all__ = ["RULES", "Rewriter", "unsupported"]

Shape = tuple[int, ...]


class Rewriter(Nodes):
    """The nodes of the new graph.

    Args:
        samples: Number of samples that ``shapes`` are for.
        shapes: Name → shape of every value of the old graph.
        own: Private weight → its shape; ``(samples, *shape)`` in the new graph.
    """

    def __init__(self, samples: int, shapes: Mapping[str, Shape], own: Mapping[str, Shape]) -> None:
        super().__init__()
        self.samples, self.shapes, self.own = samples, shapes, own

    def rest(self, node: onnx.NodeProto, name: str) -> Shape:
        """Return the shape of a value after the axis of the samples. Raises ``CompileError`` if its first axis is not as long as that."""
        shape = self.shapes[name]
        if not shape or shape[0] != self.samples:
            raise unsupported(node, f"{name} of shape {shape} has no axis of samples in front")
        return shape[1:]

    def axis(self, node: onnx.NodeProto, name: str) -> int:
        """Return the axis of the samples. Raises ``CompileError`` unless there is one."""
        found = [axis for axis, size in enumerate(self.shapes[name]) if size == self.samples]
        if len(found) != 1:
            raise unsupported(node, f"{name} of shape {self.shapes[name]} has no axis of samples")
        return found[0]

    def front(self, node: onnx.NodeProto, name: str) -> tuple[str, Shape, list[int]]:
        """Bring a value's axis of samples to the front; return its new name, its other sizes, and the order of axes that undoes it."""
        shape, axis = self.shapes[name], self.axis(node, name)
        order = [axis, *(other for other in range(len(shape)) if other != axis)]
        rest = tuple(shape[other] for other in order[1:])
        if not axis:
            return name, rest, order
        return self("Transpose", [name], f"{node.output[0]}.front", perm=order), rest, np.argsort(order).tolist()

    def array(self, value: Array, name: str) -> str:
        """Add a constant of float32."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name)
        return name

    def shaped(self, x: str, rest: Shape, output: str) -> str:
        """Reshape a value to (n, rest)."""
        return self.reshape(x, [0, *rest], output)


Rule = Callable[[Rewriter, onnx.NodeProto], None]


def unsupported(node: onnx.NodeProto, why: str) -> CompileError:
    """Return the error for a node without a form for several users."""
    return CompileError(
        f"node {node.name or node.output[0]!r} ({node.op_type}) has no form in which every sample has another user: {why}"
    )


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _only(r: Rewriter, node: onnx.NodeProto, place: int, *others: int) -> None:
    """Check that the inputs at ``place`` and the others are those that are private, none before them."""
    wrong = [i for i, name in enumerate(node.input) if name in r.own and i not in (place, *others)]
    if wrong:
        raise unsupported(node, f"{node.input[wrong[0]]} is private there")


def _weight(r: Rewriter, node: onnx.NodeProto, place: int, rest: Shape) -> str:
    """Return a weight in another shape, (n, rest) if it is private, (1, rest) if it is shared."""
    name = node.input[place]
    return r.reshape(name, [0 if name in r.own else 1, *rest], f"{node.output[0]}.{place}")


def _conv(r: Rewriter, node: onnx.NodeProto) -> None:
    _only(r, node, 1, 2)
    x, y = node.input[0], node.output[0]
    channels, *places = r.rest(node, x)
    out, inside, *kernel = r.shapes[node.input[1]]
    groups, positions = channels // inside, list(r.rest(node, y))[1:]
    count = math.prod(kernel)
    patches = x if count == 1 and places == positions else _patches(r, node, channels, kernel)
    rows = inside * count
    columns = r.shaped(patches, (groups, rows, math.prod(positions)), f"{y}.columns")
    weight = _weight(r, node, 1, (groups, out // groups, rows))
    product = r("MatMul", [weight, columns], f"{y}.product")
    has_bias = len(node.input) > 2 and bool(node.input[2])
    shaped = r.shaped(product, (out, *positions), f"{y}.shaped" if has_bias else y)
    if has_bias:
        r("Add", [shaped, _weight(r, node, 2, (out, *(1,) * len(positions)))], y)


def _patches(r: Rewriter, node: onnx.NodeProto, channels: int, kernel: list[int]) -> str:
    """Add a convolution whose output holds, for every channel, the values under every place of the kernel."""
    count = math.prod(kernel)
    one_hot = np.tile(np.eye(count, dtype=np.float32), (channels, 1)).reshape(channels * count, 1, *kernel)
    name = r.array(one_hot, f"patches {channels} of {kernel}")
    options = {key: value for key, value in _attributes(node).items() if key not in ("group", "kernel_shape")}
    if options.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise unsupported(node, "its padding is automatic")
    return r("Conv", [node.input[0], name], f"{node.output[0]}.patches", group=channels, kernel_shape=kernel, **options)


def _gemm(r: Rewriter, node: onnx.NodeProto) -> None:
    _only(r, node, 1, 2)
    options, (x, w), y = _attributes(node), node.input[:2], node.output[0]
    if options.get("transA", 0) or options.get("alpha", 1.0) != 1 or options.get("beta", 1.0) != 1:
        raise unsupported(node, "it is transposed or scaled")
    inside, outside = r.rest(node, x), r.rest(node, y)
    if w in r.own:
        weight = w if options.get("transB", 0) else r("Transpose", [w], f"{y}.turned", perm=[0, 2, 1])
        column = r.shaped(x, (*inside, 1), f"{y}.column")
        product = r.shaped(r("MatMul", [weight, column], f"{y}.product"), outside, f"{y}.row")
    else:
        product = r("Gemm", [x, w], f"{y}.row", transB=options.get("transB", 0))
    if len(node.input) > 2 and node.input[2]:
        r("Add", [product, _weight(r, node, 2, outside)], y)
    else:
        r("Identity", [product], y)


def _matmul(r: Rewriter, node: onnx.NodeProto) -> None:
    _only(r, node, 1)
    (x, w), y = node.input, node.output[0]
    if r.axis(node, x) == len(r.shapes[x]) - 1 or len(r.own[w]) != 2:
        raise unsupported(node, f"{w} is no matrix that features are multiplied by")
    first, inside, back = r.front(node, x)
    matrix = r.shaped(first, (math.prod(inside[:-1]), inside[-1]), f"{y}.rows")
    rest = (*inside[:-1], r.own[w][1])
    _back(r, r.shaped(r("MatMul", [matrix, w], f"{y}.product"), rest, f"{y}.shaped"), back, y)


def _back(r: Rewriter, x: str, order: list[int], output: str) -> None:
    """Undo ``Rewriter.front``."""
    if order[0]:
        r("Transpose", [x], output, perm=order)
    else:
        r("Identity", [x], output)


def _elementwise(r: Rewriter, node: onnx.NodeProto) -> None:
    """Broadcast: a weight's axes are the last ones of the other value; where the samples are it has none, or one of length 1."""
    axis, count, names = r.axis(node, node.output[0]), len(r.shapes[node.output[0]]), []
    for place, name in enumerate(node.input):
        if name not in r.own:
            names.append(name)
            continue
        shape, after = r.own[name], count - axis - 1
        if math.prod(shape[: max(0, len(shape) - after)]) != 1:
            raise unsupported(node, f"{name} of shape {shape} has an axis where the samples are")
        shape = shape[max(0, len(shape) - after) :]
        whole = [*(1,) * axis, -1, *(1,) * (after - len(shape)), *shape]
        names.append(r.reshape(name, whole, f"{node.output[0]}.{place}"))
    r(node.op_type, names, node.output[0])


def _layer_norm(r: Rewriter, node: onnx.NodeProto) -> None:
    """Normalise without an affine map, and apply it as a product and a sum."""
    if len(node.output) > 1 and any(node.output[1:]):
        raise unsupported(node, "its mean is used, too")
    _only(r, node, 1, 2)
    y = node.output[0]
    x, rest, back = r.front(node, node.input[0])
    scale = r.shapes[node.input[1]]
    ones = r.array(np.ones(scale), f"ones {scale}")
    if (
        _attributes(node).get("axis", -1) not in (-len(scale), len(rest) + 1 - len(scale))
        or rest[-len(scale) :] != scale
    ):
        raise unsupported(node, "it normalises the axis of the samples")
    last = r("LayerNormalization", [x, ones], f"{y}.normalised", **{**_attributes(node), "axis": -len(scale)})
    lead = (1,) * (len(rest) - len(scale))
    has_bias = len(node.input) > 2 and bool(node.input[2])
    last = r("Mul", [last, _weight(r, node, 1, (*lead, *scale))], f"{y}.scaled")
    if has_bias:
        last = r("Add", [last, _weight(r, node, 2, (*lead, *scale))], f"{y}.shifted")
    _back(r, last, back, y)


def _prelu(r: Rewriter, node: onnx.NodeProto) -> None:
    """x > 0 or slope · x."""
    (x, slope), y = node.input, node.output[0]
    rest, shape = r.rest(node, x), r.own[slope]
    own = _weight(r, node, 1, (*(1,) * (len(rest) - len(shape)), *shape))
    above = r("Relu", [x], f"{y}.above")
    below = r("Mul", [own, r("Sub", [x, above], f"{y}.below")], f"{y}.scaled")
    r("Add", [above, below], y)


def _gather(r: Rewriter, node: onnx.NodeProto) -> None:
    """Look rows up in a table of one's own: row t of sample i is at place i · rows + t of all tables together."""
    (table, index), y = node.input, node.output[0]
    if _attributes(node).get("axis", 0) or table not in r.own or index in r.own:
        raise unsupported(node, "it does not look up rows of a private table")
    rows, *size = r.own[table]
    rest = r.rest(node, index)
    flat = r.reshape(table, [-1, *size], f"{y}.flat")
    # number of each sample: a running sum of ones over the first index of each
    first = r("Slice", [r.shaped(index, (math.prod(rest),), f"{y}.index"), *map(r.integers, ([0], [1], [1]))], f"{y}.first")  # fmt: skip
    ones = r("Add", [r("Mul", [first, r.integers([0])], f"{y}.zeros"), r.integers([1])], f"{y}.ones")
    number = r("Sub", [r("CumSum", [ones, r.integers(0)], f"{y}.sum"), r.integers([1])], f"{y}.number")
    start = r.shaped(r("Mul", [number, r.integers([rows])], f"{y}.start"), (1,) * len(rest), f"{y}.starts")
    r("Gather", [flat, r("Add", [index, start], f"{y}.places")], y)


RULES: Mapping[str, Rule] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(("Add", "Mul", "Sub", "Div"), _elementwise),
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
    "Gather": _gather,
}
"""Operator → its rule."""
