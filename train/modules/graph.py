"""From the graph that torch exported to a body: weights become inputs, the last layer the logits layer, BN a scale and a shift.

Constant, small buffers    stay in the graph
parameters                 inputs, by their names in the module
BatchNormalization         a depthwise 1×1 convolution, or a product and a sum (``isoform.runtime.bodies.body``)
the last linear layer      Gemm of the embedding, ``logits.weight`` and ``logits.bias``
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from isoform.runtime.arrays import Array
from isoform.runtime.bodies.body import Norm
from isoform.runtime.errors import CompileError
from isoform.runtime.kind import HEAD

__all__ = ["Drawn", "drawn", "needed", "refuse_control_flow"]

AFTER = ("Identity", "Softmax", "LogSoftmax", "Sigmoid")
"""Operators that may follow the logits layer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """The nodes of a body."""

    nodes: list[onnx.NodeProto]
    """They read the samples, weights and logits layer by name, and end in ``logits``."""
    weights: tuple[str, ...]
    """Names of the parameters that they read, BN's and the logits layer's left out; in the module's order."""
    norms: tuple[Norm, ...]
    head: tuple[str, str | None]
    """Names of the logits layer's parameters: weight, and bias or None."""
    embedding: int
    """Number of features that the logits layer reads."""


def drawn(
    model: onnx.ModelProto, parameters: Mapping[str, Array], changing: Callable[[tuple[str, str | None]], Container[str]]
) -> Drawn:  # fmt: skip
    """Rewrite an exported graph.

    Args:
        model: As torch exported it, with every parameter as an initializer of the same name. Changed.
        parameters: The module's parameters, and BN's statistics, by name.
        changing: Given the names of the logits layer's weight and bias, returns the names of what differs between signatures.

    Raises:
        CompileError: If the graph does not end in a linear layer, or has parts that no device plan can have.
    """
    graph = model.graph
    refuse_control_flow(graph.node, "the module")
    constants = [tensor for tensor in graph.initializer if tensor.name not in parameters]
    nodes = [helper.make_node("Constant", [], [tensor.name], name=tensor.name, value=tensor) for tensor in constants]
    nodes += graph.node
    head, embedding, nodes = _with_head(nodes, parameters, graph.output[0].name)
    norms = _Norms(parameters, _ranks(model), changing(head), {name: node for node in nodes for name in node.output})
    nodes = needed([made for node in nodes for made in norms.replaced(node)], "logits")
    read = {name for node in nodes for name in node.input}
    return Drawn(
        nodes=nodes, weights=tuple(name for name in parameters if name in read), norms=tuple(norms.found.values()), head=head,
        embedding=embedding,
    )  # fmt: skip


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }


def _with_head(
    nodes: list[onnx.NodeProto], parameters: Mapping[str, Array], output: str
) -> tuple[tuple[str, str | None], int, list[onnx.NodeProto]]:  # fmt: skip
    """Replace the last linear layer by the logits layer; returns its parameters' names, its inputs, and the nodes."""
    makers = {name: node for node in nodes for name in node.output}
    after, name = [], output
    while name in makers and makers[name].op_type in AFTER:
        after.append(makers[name])
        name = makers[name].input[0]
    last, bias = makers.get(name), None
    if (
        last is not None and last.op_type == "Add"
    ):  # a linear layer of torch with more than two axes is a product and a sum
        pairs = [
            (one, other) for one, other in (last.input, reversed(last.input)) if one in makers and other in parameters
        ]
        (name, bias) = pairs[0] if pairs else (name, None)
        last = makers.get(name) if pairs else None
    found = None if last is None else _linear(last, makers, parameters)
    if found is None:
        what = "an unknown value" if last is None else f"{last.op_type} {last.name!r}"
        raise CompileError(
            f"the module ends in {what}, but a linear layer was expected, whose outputs are the logits (n, classes); "
            "wrap the module without what comes after its last nn.Linear"
        )
    x, weight, own_bias = found
    embedding = parameters[weight].shape[1]
    logits = helper.make_node("Gemm", [x, *HEAD], ["logits" if not after else "logits.before"], name="logits", transB=1)
    made, before = [], logits.output[0]
    for node in reversed(after):
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.input[0], copy.output[0] = before, "logits" if node is after[0] else f"{node.output[0]}.after"
        before = copy.output[0]
        made.append(copy)
    gone = {name for node in after for name in node.output} | {output}
    return (
        (weight, bias or own_bias),
        embedding,
        [*(node for node in nodes if not gone & {*node.output}), logits, *made],
    )


def _linear(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], parameters: Mapping[str, Array]
) -> tuple[str, str, str | None] | None:  # fmt: skip
    """Return what a linear layer reads: its input, weight (outputs × inputs) and bias; None if it is none."""
    if node.op_type == "Gemm":
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = attributes.get("alpha", 1) == 1 and attributes.get("beta", 1) == 1 and not attributes.get("transA", 0)
        x, weight, *bias = node.input
        if plain and attributes.get("transB", 0) and weight in parameters and (not bias or bias[0] in parameters):
            return x, weight, bias[0] if bias else None
    if node.op_type == "MatMul":
        x, transposed = node.input
        maker = makers.get(transposed)
        if maker is not None and maker.op_type == "Transpose" and maker.input[0] in parameters:
            return x, maker.input[0], None
    return None


class _Norms:
    """Replaces BN.

    Args:
        parameters: As for ``drawn``.
        ranks: Number of axes of every value.
        changing: Names of what differs between signatures.
        makers: Name of a value → the node that makes it.
    """

    def __init__(
        self, parameters: Mapping[str, Array], ranks: Mapping[str, int], changing: Container[str], makers: Mapping[str, onnx.NodeProto]
    ) -> None:  # fmt: skip
        self._parameters, self._ranks, self._changing, self._makers = parameters, ranks, changing, makers
        self.found: dict[str, Norm] = {}

    def replaced(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return a node, or what stands for it if it is a batch normalisation, which is added to ``found``."""
        if node.op_type != "BatchNormalization":
            return [node]
        x, mean = node.input[0], node.input[3]
        eps = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        axes, name = self._ranks[x] - 2, mean.removesuffix(".running_mean")
        # what makes x would be merged with a product, and its weights computed with
        reads = [mean, *(self._makers[x].input if x in self._makers else ())]
        apart = bool(axes) and any(name in self._changing for name in reads)
        self.found[name] = norm = Norm(
            name=name, channels=len(self._parameters[mean]), axes=axes, eps=float(np.float32(eps)), apart=apart
        )  # fmt: skip
        (scale, shift), output = norm.shapes, node.output[0]
        if apart:
            return [helper.make_node("Conv", [x, scale, shift], [output], name=output, group=norm.channels)]
        product = f"{output}.scaled"
        return [
            helper.make_node("Mul", [x, scale], [product], name=product),
            helper.make_node("Add", [product, shift], [output], name=output),
        ]


def refuse_control_flow(nodes: Iterable[onnx.NodeProto], what: str) -> None:
    """Raise ``CompileError`` if a node holds a graph of its own; ``what`` has it."""
    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    for node in nodes:
        if any(attribute.type in graphs for attribute in node.attribute):
            raise CompileError(
                f"{what} has control flow in its graph ({node.op_type}, {node.name}); write it as tensor operations, or wrap the part without it"
            )


def needed(nodes: Sequence[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """Return the nodes on which a value depends, in order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted & {*node.output}:
            wanted |= {*node.input}
            kept.append(node)
    return kept[::-1]
