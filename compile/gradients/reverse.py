"""Reverse-mode differentiation of an ONNX graph: from the gradient of its output to those of some of its inputs.

The nodes are visited from last to first. A node's rule (``elementwise.py``, ``moves.py``, ``products.py``, ``layers.py``) adds the nodes
that compute the gradients of its inputs from that of its output; gradients of a value that several nodes read are added up. Nodes on
which no wanted input has an influence are left out. All shapes are known, because the batch has a fixed size.

Source: reverse accumulation (Linnainmaa 1970; Griewank and Walther, Evaluating Derivatives, chapter 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from isoform.compile.nodes import Nodes
from isoform.runtime.arrays import Array

__all__ = ["Reverse", "Unsupported"]

Shape = tuple[int, ...]


class Unsupported(Exception):  # noqa: N818 - a finding: other ways of learning remain
    """A graph has a node without a rule; the message names it."""


class Reverse(Nodes):
    """A graph's nodes, and after them those of its backward pass.

    Args:
        graph: The graph; every value has a known shape.
        wanted: Inputs whose gradients are computed.
        rules: Operator → its rule.
    """

    def __init__(self, graph: onnx.GraphProto, wanted: Iterable[str], rules: Mapping[str, Rule]) -> None:
        super().__init__()
        self._rules, self._graph = rules, graph
        self.shapes = {
            value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self.values: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.shapes |= {name: value.shape for name, value in self.values.items()}
        self.initializers = [*graph.initializer]
        self._reached = set(wanted)
        for node in graph.node:
            if self._reached & {*node.input}:
                self._reached |= {*node.output}
        self._gradients: dict[str, list[str]] = {}
        self._count = 0
        self.nodes.extend(graph.node)

    def gradients(self, output: str, given: str, wanted: Mapping[str, str]) -> None:
        """Add the backward pass.

        Args:
            output: A value of the graph.
            given: Name of its gradient, an input of the new graph.
            wanted: Input of the graph → name of its gradient, an output of the new graph.

        Raises:
            Unsupported: If a node on the way has no rule.
        """
        self.shapes[given] = self.shapes[output]
        self._gradients[output] = [given]
        for node in reversed(self._graph.node):
            if not any(name in self._gradients for name in node.output) or not self._reached & {*node.input}:
                continue
            rule = self._rules.get(node.op_type)
            if rule is None or node.domain:
                raise Unsupported(f"{node.op_type} {node.name!r}")
            rule(self, node)
        for name, result in wanted.items():
            found = self._sum(name)
            self("Identity", [self.number(0.0, self.shapes[name]) if found is None else found], result)

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """Return a node's attributes by name."""
        return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}

    def constant(self, node: onnx.NodeProto, place: int) -> Array | None:
        """Return the value of an input that is a constant; None if it is absent. Raises ``Unsupported`` if it is computed."""
        if len(node.input) <= place or not node.input[place]:
            return None
        if node.input[place] not in self.values:
            raise Unsupported(f"{node.op_type} {node.name!r} with a computed {node.input[place]!r}")
        return self.values[node.input[place]]

    def gradient(self, node: onnx.NodeProto, place: int = 0) -> str:
        """Return the gradient of one of a node's outputs; zeros if nothing depends on it."""
        name = node.output[place]
        return self._sum(name) or self.number(0.0, self.shapes[name])

    @property
    def pending(self) -> frozenset[str]:
        """Names of the values that have a gradient so far."""
        return frozenset(self._gradients)

    def wants(self, name: str) -> bool:
        """Return whether a value's gradient is needed."""
        return name in self._reached

    def give(self, name: str, gradient: str, shape: Shape) -> None:
        """Add to a value's gradient.

        Args:
            name: The value; nothing is added if its gradient is not needed.
            gradient: The gradient, of ``shape``, to which the value may have been broadcast.
            shape: As said.
        """
        if not self.wants(name):
            return
        own = self.shapes[name]
        if own != shape:
            padded = (1,) * (len(shape) - len(own)) + own
            axes = [
                axis for axis, (have, size) in enumerate(zip(padded, shape, strict=True)) if have == 1 and size != 1
            ]
            if axes:
                gradient = self.new("ReduceSum", gradient, self.integers(axes), keepdims=1)
            gradient = self.shaped(gradient, own)
        self._gradients.setdefault(name, []).append(gradient)

    def new(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with a new name; returns it."""
        self._count += 1
        return self(op, [*inputs], f"grad{self._count}", **attributes)

    def several(self, op: str, inputs: list[str], count: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs; returns their names."""
        names = []
        for _ in range(count):
            self._count += 1
            names.append(f"grad{self._count}")
        self.nodes.append(helper.make_node(op, inputs, names, name=names[0], **attributes))
        return names

    def shaped(self, x: str, shape: Shape) -> str:
        """Reshape to known sizes."""
        return self.new("Reshape", x, self.integers(shape))

    def number(self, value: float, shape: Shape = ()) -> str:
        """A float32 constant, everywhere the same."""
        return (
            super().number(value)
            if not shape
            else self.array(np.full(shape, value, dtype=np.float32), f"{value} {shape}")
        )

    def array(self, value: Array, name: str) -> str:
        """A constant by a name that says its value."""
        return self._constant(value, name)

    def truth(self, op: str, *inputs: str) -> str:
        """Add a comparison whose result is 0 or 1, float32."""
        return self.new("Cast", self.new(op, *inputs), to=TensorProto.FLOAT)

    def total(self, x: str, axes: Iterable[int]) -> str:
        """Sum over axes, which keep length 1."""
        return self.new("ReduceSum", x, self.integers([*axes]), keepdims=1)

    def mean(self, x: str, axes: Iterable[int]) -> str:
        """Mean over axes, which keep length 1."""
        return self.new("ReduceMean", x, axes=[*axes], keepdims=1)

    def _sum(self, name: str) -> str | None:
        found = self._gradients.get(name)
        if found is None:
            return None
        if len(found) > 1:
            self._gradients[name] = found = [self.new("Sum", *found)]
        return found[0]


Rule = Callable[[Reverse, onnx.NodeProto], None]
"""Adds the gradients of a node's inputs."""
