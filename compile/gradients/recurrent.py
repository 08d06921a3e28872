"""Rules of recurrent layers: LSTM and GRU, as torch exports them.

All gates follow from the outputs of the forward pass, in one product for all steps; only what flows from step to step runs in a loop, an
ONNX ``Scan`` from the last step to the first. With z the sums before the gates, in ONNX's order of gates:

    LSTM    i, o, f = σ(z), g = tanh(z), c = f c₋ + i g, h = o tanh(c)
            dc += dh o (1 - tanh² c);  dz = (dc g i (1 - i), dh tanh(c) o (1 - o), dc c₋ f (1 - f), dc i (1 - g²));  dc₋ = dc f, dh₋ = dz R
    GRU     u, r = σ(z), n = tanh(zₙ + r hₙ), h = (1 - u) n + u h₋         hₙ = R h₋ + b of that gate
            dz = (dh (h₋ - n) u (1 - u), dn hₙ r (1 - r), dn), dn = dh (1 - u) (1 - n²);  dh₋ = dh u + (dz_u, dz_r, r dn) R
    both    dW = Σ dzᵀ x, dR = Σ dzᵀ h₋, db = Σ dz, dx = dz W
"""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx
from onnx import TensorProto, helper

from isoform.compile.gradients.reverse import Reverse, Rule, Unsupported

__all__ = ["RULES"]

FAR = -(1 << 62)


@dataclasses.dataclass(frozen=True)
class Direction:
    """One direction of a layer, with time running forwards."""

    x: str
    """Inputs, (steps, n, inputs)."""
    before: str
    """States before each step, (steps, n, hidden)."""
    w: str
    """Weights of inputs, (gates · hidden, inputs)."""
    r: str
    """Weights of states, (gates · hidden, hidden)."""
    inner: str
    """Sums from inputs, with their bias, (steps, n, gates · hidden)."""
    outer: str
    """Sums from states, with theirs."""
    dy: str
    """Gradient of the states after each step, (steps, n, hidden)."""


class Layer:
    """What is common to the two rules.

    Args:
        r: The graph.
        node: The node.
        gates: Number of gates.
    """

    def __init__(self, r: Reverse, node: onnx.NodeProto, gates: int) -> None:
        self.r, self.node, self.gates = r, node, gates
        attributes = r.attributes(node)
        if (
            attributes.get("layout", 0)
            or "activations" in attributes
            or "clip" in attributes
            or attributes.get("input_forget", 0)
        ):
            raise Unsupported(f"{node.op_type} {node.name!r} with other activations")
        if len(node.input) > 4 and node.input[4]:
            raise Unsupported(f"{node.op_type} {node.name!r} with lengths of its own")
        self.ways = attributes.get("direction", b"forward").decode()
        self.hidden: int = attributes["hidden_size"]
        self.steps, self.samples, self.inputs = r.shapes[node.input[0]]

    def directions(self) -> list[tuple[Direction, bool]]:
        """Return the directions, each with whether it is backwards in time."""
        backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[self.ways]
        return [(self._direction(number, back), back) for number, back in enumerate(backwards)]

    def _direction(self, number: int, back: bool) -> Direction:
        r, node, wide = self.r, self.node, self.gates * self.hidden
        x = self.turned(node.input[0], back)
        w = r.shaped(self.part(node.input[1], 0, number), (wide, self.inputs))
        states = r.shaped(self.part(node.input[2], 0, number), (wide, self.hidden))
        y = self.turned(r.shaped(self.part(node.output[0], 1, number), (self.steps, self.samples, self.hidden)), back)
        start = self.start(5, number)
        earlier = r.new("Slice", y, r.integers([0]), r.integers([self.steps - 1]), r.integers([0]))
        before = r.new("Concat", start, earlier, axis=0) if self.steps > 1 else start
        inner, outer = (
            r.new("MatMul", x, r.new("Transpose", w, perm=[1, 0])),
            r.new("MatMul", before, r.new("Transpose", states, perm=[1, 0])),
        )
        if len(node.input) > 3 and node.input[3]:
            bias = r.shaped(self.part(node.input[3], 0, number), (2, wide))
            first, second = r.several("Split", [bias], 2, axis=0)
            inner, outer = r.new("Add", inner, first), r.new("Add", outer, second)
        return Direction(x, before, w, states, inner, outer, self._given(number, back))

    def _given(self, number: int, back: bool) -> str:
        """Return the gradient of the states after each step: of all, and of the last."""
        r, shape = self.r, (self.steps, self.samples, self.hidden)
        dy = self.turned(r.shaped(self.part(r.gradient(self.node), 1, number), shape), back)
        if self.known(1):
            last = r.shaped(self.part(r.gradient(self.node, 1), 0, number), (1, self.samples, self.hidden))
            if self.steps > 1:
                last = r.new("Pad", last, r.integers([self.steps - 1, 0, 0, 0, 0, 0]), r.number(0.0))
            dy = r.new("Add", dy, last)
        return dy

    def known(self, place: int) -> bool:
        """Return whether the node has an output, and its shape is known."""
        return len(self.node.output) > place and self.node.output[place] in self.r.shapes

    def part(self, x: str, axis: int, number: int) -> str:
        """Return one direction of a value."""
        r = self.r
        return r.new("Slice", x, r.integers([number]), r.integers([number + 1]), r.integers([axis]))

    def turned(self, x: str, back: bool) -> str:
        """Return a value with its steps in reverse order, if ``back``."""
        r = self.r
        return r.new("Slice", x, r.integers([-1]), r.integers([FAR]), r.integers([0]), r.integers([-1])) if back else x

    def start(self, place: int, number: int) -> str:
        """Return the state before the first step, (1, n, hidden)."""
        shape = (1, self.samples, self.hidden)
        if len(self.node.input) <= place or not self.node.input[place]:
            return self.r.number(0.0, shape)
        return self.r.shaped(self.part(self.node.input[place], 0, number), shape)

    def gates_of(self, x: str) -> list[str]:
        """Cut sums into those of the gates."""
        return self.r.several("Split", [x], self.gates, axis=2)

    def give(self, found: list[tuple[Direction, bool, str, str]]) -> None:
        """Give the gradients of inputs and weights: per direction the gradients of sums from inputs, and of those from states."""
        r, node, rows = self.r, self.node, self.steps * self.samples
        wide = self.gates * self.hidden

        def flat(x: str, width: int) -> str:
            return r.shaped(x, (rows, width))

        inputs, weights, states, biases = [], [], [], []
        for way, back, inner, outer in found:
            inputs.append(self.turned(r.new("MatMul", inner, way.w), back))
            weights.append(
                r.shaped(r.new("Gemm", flat(inner, wide), flat(way.x, self.inputs), transA=1), (1, wide, self.inputs))
            )
            states.append(
                r.shaped(
                    r.new("Gemm", flat(outer, wide), flat(way.before, self.hidden), transA=1), (1, wide, self.hidden)
                )
            )
            sums = [r.shaped(r.total(x, [0, 1]), (1, wide)) for x in (inner, outer)]
            biases.append(r.new("Concat", *sums, axis=1))
        x = inputs[0] if len(inputs) == 1 else r.new("Add", *inputs)
        r.give(node.input[0], x, r.shapes[node.input[0]])
        for place, parts in ((1, weights), (2, states), (3, biases)):
            if len(node.input) > place and node.input[place] and r.wants(node.input[place]):
                whole = parts[0] if len(parts) == 1 else r.new("Concat", *parts, axis=0)
                r.give(node.input[place], whole, r.shapes[node.input[place]])

    def scan(
        self,
        states: list[str],
        rows: list[str],
        nodes: list[onnx.NodeProto],
        results: list[str],
        outputs: int,
        *,
        back: bool,
    ) -> list[str]:
        """Run nodes for every step.

        Args:
            states: Values before the first step, (n, hidden); in the nodes they are ``s0``, …, and the next ones ``t0``, ….
            rows: Values per step, (steps, n, …); in the nodes they are ``a0``, ….
            nodes: The nodes.
            results: Names in the nodes of what is collected.
            outputs: Width of what is collected, per result.
            back: Whether the steps run from the last to the first.

        Returns:
            What is collected, (steps, n, outputs) each.
        """
        r, shape = self.r, [self.samples, self.hidden]

        def declared(names: list[str], width: int | None = None) -> list[onnx.ValueInfoProto]:
            sizes = shape if width is None else [self.samples, width]
            return [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in names]

        before, after = ([f"{letter}{number}" for number in range(len(states))] for letter in "st")
        names = [f"a{number}" for number in range(len(rows))]
        body = helper.make_graph(
            nodes, "step", [*declared(before), *(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)],
            [*declared(after), *declared(results, outputs)],
        )  # fmt: skip
        found = r.several(
            "Scan", [*states, *rows], len(states) + len(results), body=body, num_scan_inputs=len(rows),
            scan_input_directions=[int(back)] * len(rows), scan_output_directions=[int(back)] * len(results),
        )  # fmt: skip
        return found[len(states) :]


def _step(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def _lstm(r: Reverse, node: onnx.NodeProto) -> None:
    layer, found = Layer(r, node, 4), []
    if layer.known(2) and node.output[2] in r.pending:
        raise Unsupported(f"LSTM {node.name!r} whose last cell is used")
    size = layer.hidden
    for number, (way, back) in enumerate(layer.directions()):
        sums = layer.gates_of(r.new("Add", way.inner, way.outer))
        i, o, f = (r.new("Sigmoid", x) for x in sums[:3])
        g = r.new("Tanh", sums[3])
        first = r.shaped(layer.start(6, number), (layer.samples, size))
        (cells,) = layer.scan(
            [first], [f, r.new("Mul", i, g)],
            [_step("Mul", ["s0", "a0"], "kept"), _step("Add", ["kept", "a1"], "t0"), _step("Identity", ["t0"], "c")],
            ["c"], size, back=False,
        )  # fmt: skip
        start = r.shaped(first, (1, layer.samples, size))
        before = (
            r.new(
                "Concat",
                start,
                r.new("Slice", cells, r.integers([0]), r.integers([layer.steps - 1]), r.integers([0])),
                axis=0,
            )
            if layer.steps > 1
            else start
        )
        out = r.new("Tanh", cells)
        one = r.number(1.0)

        def sloped(x: str, one: str = one) -> str:
            return r.new("Mul", x, r.new("Sub", one, x))

        # what the gradients of c and h are multiplied with, for all steps at once
        of_c = r.new("Mul", o, r.new("Sub", one, r.new("Mul", out, out)))
        to_i, to_f = r.new("Mul", g, sloped(i)), r.new("Mul", before, sloped(f))
        to_o, to_g = r.new("Mul", out, sloped(o)), r.new("Mul", i, r.new("Sub", one, r.new("Mul", g, g)))
        zeros = r.number(0.0, (layer.samples, size))
        (dz,) = layer.scan(
            [zeros, zeros], [way.dy, of_c, to_i, to_o, to_f, to_g, f],
            [
                _step("Add", ["s0", "a0"], "dh"), _step("Mul", ["dh", "a1"], "share"), _step("Add", ["s1", "share"], "dc"),
                _step("Mul", ["dc", "a2"], "di"), _step("Mul", ["dh", "a3"], "do"), _step("Mul", ["dc", "a4"], "df"), _step("Mul", ["dc", "a5"], "dg"),
                _step("Concat", ["di", "do", "df", "dg"], "dz", axis=1), _step("MatMul", ["dz", way.r], "t0"), _step("Mul", ["dc", "a6"], "t1"),
            ],
            ["dz"], 4 * size, back=True,
        )  # fmt: skip
        found.append((way, back, dz, dz))
    layer.give(found)


def _gru(r: Reverse, node: onnx.NodeProto) -> None:
    if not r.attributes(node).get("linear_before_reset", 0):
        raise Unsupported(f"GRU {node.name!r} that resets before its product")
    layer, found = Layer(r, node, 3), []
    size, one = layer.hidden, r.number(1.0)
    for way, back in layer.directions():
        inner, outer = layer.gates_of(way.inner), layer.gates_of(way.outer)
        u, reset = (r.new("Sigmoid", r.new("Add", *pair)) for pair in zip(inner[:2], outer[:2], strict=True))
        n = r.new("Tanh", r.new("Add", inner[2], r.new("Mul", reset, outer[2])))
        to_u = r.new("Mul", r.new("Sub", way.before, n), r.new("Mul", u, r.new("Sub", one, u)))
        to_n = r.new("Mul", r.new("Sub", one, u), r.new("Sub", one, r.new("Mul", n, n)))
        to_r = r.new("Mul", outer[2], r.new("Mul", reset, r.new("Sub", one, reset)))
        zeros = r.number(0.0, (layer.samples, size))
        both = layer.scan(
            [zeros], [way.dy, to_u, to_n, to_r, reset, u],
            [
                _step("Add", ["s0", "a0"], "dh"), _step("Mul", ["dh", "a1"], "du"), _step("Mul", ["dh", "a2"], "dn"), _step("Mul", ["dn", "a3"], "dr"),
                _step("Mul", ["dn", "a4"], "dm"), _step("Concat", ["du", "dr", "dn"], "inner", axis=1), _step("Concat", ["du", "dr", "dm"], "outer", axis=1),
                _step("MatMul", ["outer", way.r], "through"), _step("Mul", ["dh", "a5"], "kept"), _step("Add", ["through", "kept"], "t0"),
            ],
            ["inner", "outer"], 3 * size, back=True,
        )  # fmt: skip
        found.append((way, back, both[0], both[1]))
    layer.give(found)


RULES: dict[str, Rule] = {"LSTM": _lstm, "GRU": _gru}
