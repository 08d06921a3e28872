"""The backward pass of a network as an ONNX graph: gradients of its weights from that of its embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from isoform.compile.gradients import elementwise, layers, moves, products, recurrent
from isoform.compile.gradients.fixed import fixed
from isoform.compile.gradients.reverse import Reverse, Rule, Shape
from isoform.compile.nodes import make_model

__all__ = ["RULES", "backward_graph"]

RULES: Mapping[str, Rule] = {**elementwise.RULES, **moves.RULES, **products.RULES, **layers.RULES, **recurrent.RULES}
"""Operator → its rule."""


def backward_graph(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Shape], output: str, wanted: Mapping[str, str], *, given: str, integers: Sequence[str] = ()
) -> bytes:  # fmt: skip
    """Encode the backward pass of a graph.

    Args:
        nodes: The graph's nodes, in order.
        inputs: Name → shape of its inputs.
        output: The value whose gradient is given.
        wanted: Input → name of its gradient in the result.
        given: Name of the given gradient, an input of the result after ``inputs``.
        integers: Names of inputs that are int64.

    Raises:
        Unsupported: If an operator has no rule, or a size depends on the samples.
    """
    graph = fixed(nodes, inputs, [output], integers=integers)
    reverse = Reverse(graph, wanted, RULES)
    reverse.gradients(output, given, wanted)
    declared = [
        helper.make_tensor_value_info(name, TensorProto.INT64 if name in integers else TensorProto.FLOAT, shape)
        for name, shape in {**inputs, given: reverse.shapes[given]}.items()
    ]
    results = [
        helper.make_tensor_value_info(result, TensorProto.FLOAT, inputs[name]) for name, result in wanted.items()
    ]
    constants = [*reverse.initializers, *reverse.constants.values()]
    model = make_model(helper.make_graph(reverse.nodes, "backward", declared, results, constants))
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)
