"""Rules of products: matrices and convolutions. g is the gradient of the output y.

y = x W                 dx = g Wᵀ, dW = xᵀ g
y = x * W (convolution) dx = the transposed convolution of g, dW = x, with samples as channels, convolved with g, with strides and
                        dilations exchanged
"""

from __future__ import annotations

import itertools

import onnx

from isoform.compile.gradients.reverse import Reverse, Rule, Shape, Unsupported

__all__ = ["RULES", "Window", "window_of"]


def _gemm(r: Reverse, node: onnx.NodeProto) -> None:
    """y = α A B + β C, with A or B transposed."""
    a, b, *c = node.input
    attributes, g, shape = r.attributes(node), r.gradient(node), r.shapes[node.output[0]]
    over, across = int(attributes.get("transA", 0)), int(attributes.get("transB", 0))
    alpha = float(attributes.get("alpha", 1.0))
    if r.wants(a):
        gradient = (
            r.new("Gemm", b, g, transA=across, transB=1, alpha=alpha)
            if over
            else r.new("Gemm", g, b, transB=1 - across, alpha=alpha)
        )
        r.give(a, gradient, r.shapes[a])
    if r.wants(b):
        gradient = (
            r.new("Gemm", g, a, transA=1, transB=over, alpha=alpha)
            if across
            else r.new("Gemm", a, g, transA=1 - over, alpha=alpha)
        )
        r.give(b, gradient, r.shapes[b])
    if c and r.wants(c[0]):
        beta = float(attributes.get("beta", 1.0))
        r.give(c[0], g if beta == 1 else r.new("Mul", g, r.number(beta)), shape)


def _matmul(r: Reverse, node: onnx.NodeProto) -> None:
    a, b = node.input
    g, first, second = r.gradient(node), r.shapes[a], r.shapes[b]
    if min(len(first), len(second)) < 2:
        raise Unsupported(f"MatMul {node.name!r} with a vector")
    batch = r.shapes[node.output[0]][:-2]
    if r.wants(a):
        r.give(a, r.new("MatMul", g, _turned(r, b, second)), (*batch, *first[-2:]))
    if not r.wants(b):
        return
    if len(second) == 2 and len(first) > 2:  # one matrix for all: its gradient is one product over all rows
        rows = r.new("Reshape", a, r.integers([-1, first[-1]])), r.new("Reshape", g, r.integers([-1, second[-1]]))
        r.give(b, r.new("Gemm", *rows, transA=1), second)
    else:
        r.give(b, r.new("MatMul", _turned(r, a, first), g), (*batch, *second[-2:]))


def _turned(r: Reverse, x: str, shape: Shape) -> str:
    axes = [*range(len(shape))]
    return r.new("Transpose", x, perm=[*axes[:-2], axes[-1], axes[-2]])


class Window:
    """The window of a convolution or a pool: its attributes, with their defaults.

    Args:
        r: The graph.
        node: The node.
        kernel: Sides of the window.
    """

    def __init__(self, r: Reverse, node: onnx.NodeProto, kernel: Shape) -> None:
        attributes, ones = r.attributes(node), [1] * len(kernel)
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or attributes.get("ceil_mode", 0):
            raise Unsupported(f"{node.op_type} {node.name!r} with automatic padding")
        self.kernel = [*kernel]
        self.strides: list[int] = [*attributes.get("strides", ones)]
        self.dilations: list[int] = [*attributes.get("dilations", ones)]
        self.pads: list[int] = [*attributes.get("pads", [0] * (2 * len(kernel)))]
        self.sides, self.outside = r.shapes[node.input[0]][2:], r.shapes[node.output[0]][2:]

    @property
    def output_padding(self) -> list[int]:
        """Rows and columns at the end that no window reads."""
        return [
            side - ((out - 1) * stride + dilation * (size - 1) + 1 - before - after)
            for side, out, stride, dilation, size, before, after in zip(
                self.sides, self.outside, self.strides, self.dilations, self.kernel, self.pads[: len(self.kernel)], self.pads[len(self.kernel) :],
                strict=True,
            )
        ]  # fmt: skip

    def transposed(self, r: Reverse, g: str, weight: str, groups: int) -> str:
        """The transposed convolution: the gradient of what the windows read."""
        extra = self.output_padding
        # ONNX Runtime wants output_padding below the stride or dilation: the rest is padded with zeros
        inside = [min(more, stride - 1) for more, stride in zip(extra, self.strides, strict=True)]
        x = r.new(
            "ConvTranspose", g, weight, strides=self.strides, dilations=self.dilations, pads=self.pads, group=groups, output_padding=inside,
            kernel_shape=self.kernel,
        )  # fmt: skip
        rest = [more - some for more, some in zip(extra, inside, strict=True)]
        if any(rest):
            x = r.new("Pad", x, r.integers([0] * (4 + len(rest)) + rest), r.number(0.0))
        return x


def window_of(r: Reverse, node: onnx.NodeProto) -> Window:
    """Return the window of a pool."""
    kernel = r.attributes(node)["kernel_shape"]
    return Window(r, node, tuple(kernel))


def _conv(r: Reverse, node: onnx.NodeProto) -> None:
    x, weight, *bias = node.input
    g, shape = r.gradient(node), r.shapes[weight]
    groups = int(r.attributes(node).get("group", 1))
    window = Window(r, node, shape[2:])
    if r.wants(x):
        r.give(x, window.transposed(r, g, weight, groups), r.shapes[x])
    if bias and r.wants(bias[0]):
        axes = [0, *range(2, len(shape))]
        r.give(bias[0], r.shaped(r.total(g, axes), r.shapes[bias[0]]), r.shapes[bias[0]])
    if not r.wants(weight):
        return
    if groups == 1:
        r.give(weight, _weight(r, x, g, window, shape), shape)
    elif shape[1] == 1 and shape[0] == groups:
        r.give(weight, _depthwise(r, x, g, window, shape), shape)
    else:
        parts = zip(_grouped(r, x, groups), _grouped(r, g, groups), strict=True)
        own = (shape[0] // groups, *shape[1:])
        r.give(weight, r.new("Concat", *(_weight(r, a, b, window, own) for a, b in parts), axis=0), shape)


def _grouped(r: Reverse, x: str, groups: int) -> list[str]:
    return r.several("Split", [x], groups, axis=1)


def _weight(r: Reverse, x: str, g: str, window: Window, shape: Shape) -> str:
    swap = [1, 0, *range(2, len(shape))]
    if all(size == 1 for size in (*window.kernel, *window.strides)) and not any(window.pads):
        # of 1×1 windows: one product over samples and places
        rows = [
            r.new("Reshape", r.new("Transpose", some, perm=swap), r.integers([channels, -1]))
            for some, channels in ((g, shape[0]), (x, shape[1]))
        ]
        return r.shaped(r.new("Gemm", *rows, transB=1), shape)
    found = r.new(
        "Conv", r.new("Transpose", x, perm=swap), r.new("Transpose", g, perm=swap), strides=window.dilations, dilations=window.strides,
        pads=window.pads,
    )  # fmt: skip
    # where windows do not reach the end there are more places than the kernel has
    cut = r.new(
        "Slice",
        found,
        r.integers([0] * len(window.kernel)),
        r.integers(window.kernel),
        r.integers([*range(2, len(shape))]),
    )
    return r.new("Transpose", cut, perm=swap)


def _depthwise(r: Reverse, x: str, g: str, window: Window, shape: Shape) -> str:
    """One product per place of the kernel."""
    axes, count = [0, *range(2, len(shape))], len(window.kernel)
    if any(window.pads):
        x = r.new("Pad", x, r.integers([0, 0, *window.pads[:count], 0, 0, *window.pads[count:]]), r.number(0.0))
    sums = []
    for place in itertools.product(*map(range, window.kernel)):
        starts = [index * dilation for index, dilation in zip(place, window.dilations, strict=True)]
        ends = [
            start + (out - 1) * stride + 1
            for start, out, stride in zip(starts, window.outside, window.strides, strict=True)
        ]
        seen = r.new(
            "Slice",
            x,
            r.integers(starts),
            r.integers(ends),
            r.integers([*range(2, len(shape))]),
            r.integers(window.strides),
        )
        sums.append(r.shaped(r.total(r.new("Mul", seen, g), axes), (shape[0], 1)))
    return r.shaped(sums[0] if len(sums) == 1 else r.new("Concat", *sums, axis=1), shape)


RULES: dict[str, Rule] = {"Gemm": _gemm, "MatMul": _matmul, "Conv": _conv}
