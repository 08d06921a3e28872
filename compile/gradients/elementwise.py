"""Rules of operators that work number by number. y is the output, x the input, g the gradient of y."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import onnx

from isoform.compile.gradients.reverse import Reverse, Rule, Unsupported

__all__ = ["RULES"]

Slope = Callable[[Reverse, onnx.NodeProto, str, str], str]
"""Given x and y, returns y'."""


def _add(r: Reverse, node: onnx.NodeProto) -> None:
    for name in node.input:
        r.give(name, r.gradient(node), r.shapes[node.output[0]])


def _sub(r: Reverse, node: onnx.NodeProto) -> None:
    g, shape = r.gradient(node), r.shapes[node.output[0]]
    r.give(node.input[0], g, shape)
    if r.wants(node.input[1]):
        r.give(node.input[1], r.new("Neg", g), shape)


def _mul(r: Reverse, node: onnx.NodeProto) -> None:
    g, shape = r.gradient(node), r.shapes[node.output[0]]
    for name, other in (node.input, reversed(node.input)):
        if r.wants(name):
            r.give(name, r.new("Mul", g, other), shape)


def _div(r: Reverse, node: onnx.NodeProto) -> None:
    (a, b), y, g = node.input, node.output[0], r.gradient(node)
    share = r.new("Div", g, b)
    r.give(a, share, r.shapes[y])
    if r.wants(b):
        r.give(b, r.new("Neg", r.new("Mul", share, y)), r.shapes[y])


def _pow(r: Reverse, node: onnx.NodeProto) -> None:
    x, exponent = node.input[0], r.constant(node, 1)
    if exponent is None or exponent.size != 1:
        raise Unsupported(f"Pow {node.name!r} with several exponents")
    power = float(exponent.ravel()[0])
    lower = x if power == 2 else r.new("Pow", x, r.number(power - 1))
    r.give(x, r.new("Mul", r.gradient(node), r.new("Mul", lower, r.number(power))), r.shapes[node.output[0]])


def _where(r: Reverse, node: onnx.NodeProto) -> None:
    condition, a, b = node.input
    g, shape = r.gradient(node), r.shapes[node.output[0]]
    for name, order in ((a, (g, r.number(0.0))), (b, (r.number(0.0), g))):
        if r.wants(name):
            r.give(name, r.new("Where", condition, *order), shape)


def _sloped(r: Reverse, node: onnx.NodeProto, *, slope: Slope) -> None:
    x, y = node.input[0], node.output[0]
    r.give(x, r.new("Mul", r.gradient(node), slope(r, node, x, y)), r.shapes[y])


def _same(r: Reverse, node: onnx.NodeProto) -> None:
    r.give(node.input[0], r.gradient(node), r.shapes[node.output[0]])


def _none(r: Reverse, node: onnx.NodeProto) -> None:
    """Give nothing: what steps has the gradient 0."""


def _attribute(r: Reverse, node: onnx.NodeProto, name: str, default: float) -> float:
    value = r.attributes(node).get(name, default)
    assert isinstance(value, float)
    return value


def _clip(r: Reverse, node: onnx.NodeProto, x: str, y: str) -> str:
    """1 between the limits, as in torch at them too."""
    low, high = (r.constant(node, place) for place in (1, 2))
    inside = [
        r.truth(op, x, r.number(float(limit)))
        for op, limit in (("GreaterOrEqual", low), ("LessOrEqual", high))
        if limit is not None
    ]
    return functools.reduce(lambda a, b: r.new("Mul", a, b), inside) if inside else r.number(1.0)


def _hard_sigmoid(r: Reverse, node: onnx.NodeProto, x: str, y: str) -> str:
    inside = r.new("Mul", r.truth("Greater", y, r.number(0.0)), r.truth("Less", y, r.number(1.0)))
    return r.new("Mul", inside, r.number(_attribute(r, node, "alpha", 0.2)))


def _hard_swish(r: Reverse, node: onnx.NodeProto, x: str, y: str) -> str:
    """σ + x / 6 where |x| < 3, with σ = clip(x / 6 + ½, 0, 1)."""
    gate = r.new("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    inside = r.truth("Less", r.new("Abs", x), r.number(3.0))
    return r.new("Add", gate, r.new("Mul", r.new("Mul", x, r.number(1 / 6)), inside))


def _leaky(r: Reverse, node: onnx.NodeProto, x: str, y: str) -> str:
    alpha = _attribute(r, node, "alpha", 0.01)
    return r.new("Add", r.new("Mul", r.truth("Greater", x, r.number(0.0)), r.number(1 - alpha)), r.number(alpha))


def _elu(r: Reverse, node: onnx.NodeProto, x: str, y: str) -> str:
    """1 above 0, y + α below."""
    below = r.new("Add", y, r.number(_attribute(r, node, "alpha", 1.0)))
    return r.new("Where", r.new("Greater", x, r.number(0.0)), r.number(1.0), below)


def _erf(r: Reverse, node: onnx.NodeProto, x: str, y: str) -> str:
    """2 / √π exp(-x²)."""
    return r.new("Mul", r.new("Exp", r.new("Neg", r.new("Mul", x, x))), r.number(2 / math.sqrt(math.pi)))


SLOPES: dict[str, Slope] = {
    "Relu": lambda r, node, x, y: r.truth("Greater", y, r.number(0.0)),
    "Sigmoid": lambda r, node, x, y: r.new("Mul", y, r.new("Sub", r.number(1.0), y)),
    "Tanh": lambda r, node, x, y: r.new("Sub", r.number(1.0), r.new("Mul", y, y)),
    "Exp": lambda r, node, x, y: y,
    "Log": lambda r, node, x, y: r.new("Reciprocal", x),
    "Sqrt": lambda r, node, x, y: r.new("Div", r.number(0.5), y),
    "Neg": lambda r, node, x, y: r.number(-1.0),
    "Abs": lambda r, node, x, y: r.new("Sign", x),
    "Reciprocal": lambda r, node, x, y: r.new("Neg", r.new("Mul", y, y)),
    "Softplus": lambda r, node, x, y: r.new("Sigmoid", x),
    "Sin": lambda r, node, x, y: r.new("Cos", x),
    "Cos": lambda r, node, x, y: r.new("Neg", r.new("Sin", x)),
    "Erf": _erf, "Clip": _clip, "HardSigmoid": _hard_sigmoid, "HardSwish": _hard_swish, "LeakyRelu": _leaky, "Elu": _elu,
}  # fmt: skip
"""Operator with one input → its slope."""

STEPS = (
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "Shape",
    "ArgMax",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Equal",
    "Not",
    "And",
    "Or",
)
"""Operators whose output does not change with a small change of their input."""

RULES: dict[str, Rule] = {
    "Add": _add, "Sum": _add, "Sub": _sub, "Mul": _mul, "Div": _div, "Pow": _pow, "Where": _where, "Identity": _same, "Cast": _same, "Dropout": _same,
    **{op: functools.partial(_sloped, slope=slope) for op, slope in SLOPES.items()}, **dict.fromkeys(STEPS, _none),
}  # fmt: skip
