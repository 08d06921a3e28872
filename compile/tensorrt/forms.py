"""Write a graph in the forms that TensorRT engines are built from (``runtime/engines/tensorrt/form.py``).

What TensorRT's parsers do not take in every version is written otherwise: HardSwish as x · HardSigmoid(x). Weights that all users share
become constants.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from isoform.compile.nodes import make_model
from isoform.compile.tensorrt.rules import RULES, Rewriter, Shape, unsupported
from isoform.runtime.arrays import Array
from isoform.runtime.engines.tensorrt.form import TABLE, USER, UserVector
from isoform.runtime.errors import CompileError
from isoform.runtime.inputs import Input
from isoform.runtime.kind import HEAD, Graph

__all__ = ["Forms", "forms_of", "plain"]

SAMPLES = 10007
"""Number of samples that shapes are computed for: a prime that no other axis is likely to be as long as, nor a multiple of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forms:
    """A graph's forms."""

    vector: UserVector
    one: bytes
    many: bytes | None
    reason: str = ""
    """Why there is no form ``many``."""


def forms_of(file: bytes, graph: Graph, *, classes: int) -> Forms:
    """Write both forms of a graph.

    Args:
        file: The graph without weights, of ``compiled/``.
        graph: The same graph.
        classes: Rows of the logits layer, as many as the largest user has.

    Raises:
        CompileError: If the network's lengths are open.
    """
    takes = graph.input
    if takes.open:
        raise CompileError(
            "a TensorRT engine has samples of one size, but this network takes any length; wrap it without lengths"
        )
    constants = graph.constants
    nodes = [part for node in onnx.load_from_string(file).graph.node for part in plain(node)]
    shapes = {name: tuple(shape) for name, shape in graph.weights.items() if name not in constants}
    shapes |= {HEAD[0]: (classes, graph.embedding), HEAD[1]: (classes,)}
    nodes, padded = _unpadded(nodes, shapes)
    vector = UserVector(classes=classes, shapes=shapes, padded=padded)
    shared = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in constants.items()}
    one = _model(nodes, [_samples(takes), *_inputs(vector)], shared, classes)
    try:
        many, reason = _many(nodes, vector, shared, takes), ""
    except CompileError as problem:
        many, reason = None, str(problem)
    return Forms(vector=vector, one=one, many=many, reason=reason)


def plain(node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    """Write a node by operators that every parser has."""
    if node.op_type != "HardSwish":
        return [node]
    x, y = node.input[0], node.output[0]
    gate = helper.make_node("HardSigmoid", [x], [f"{y}.gate"], name=f"{y}.gate", alpha=1 / 6, beta=0.5)
    return [gate, helper.make_node("Mul", [x, f"{y}.gate"], [y], name=node.name)]


def _unpadded(
    nodes: Sequence[onnx.NodeProto], shapes: Mapping[str, Shape]
) -> tuple[list[onnx.NodeProto], dict[str, Shape]]:
    """Take out the nodes that pad a private weight with zeros at the end; return the others, and the weights' larger shapes."""
    constants = {
        node.output[0]: helper.get_attribute_value(node.attribute[0]) for node in nodes if node.op_type == "Constant"
    }
    padded: dict[str, Shape] = {}
    renamed: dict[str, str] = {}
    for node in nodes:
        if node.op_type != "Pad" or node.input[0] not in shapes:
            continue
        given, pads = shapes[node.input[0]], list(constants.get(node.input[1], ()))
        plain = len(node.input) == 2 and all(attribute.name != "mode" for attribute in node.attribute)
        readers = [name for other in nodes for name in other.input if name == node.input[0]]
        if plain and len(pads) == 2 * len(given) and not any(pads[: len(given)]) and len(readers) == 1:
            padded[node.input[0]] = tuple(size + more for size, more in zip(given, pads[len(given) :], strict=True))
            renamed[node.output[0]] = node.input[0]
    kept = []
    for node in nodes:
        if node.op_type == "Pad" and node.output[0] in renamed:
            continue
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        for place, name in enumerate(copy.input):
            copy.input[place] = renamed.get(name, name)
        kept.append(copy)
    read = {name for node in kept for name in node.input}
    return [node for node in kept if node.op_type != "Constant" or node.output[0] in read], padded


def _many(nodes: Sequence[onnx.NodeProto], vector: UserVector, shared: Mapping[str, Array], takes: Input) -> bytes:
    """Write the form in which every sample has another user."""
    own = {name: shape for name, (shape, _) in vector.places.items()}
    rewriter = Rewriter(SAMPLES, _shapes(nodes, own, shared, takes), own)
    rows = rewriter("Gather", [TABLE, USER], "user.weights", axis=0)
    # one Split: TensorRT's parser turns a Slice of a value with a dynamic axis into 27 layers, and an output of a Split into 3
    pieces, place = [], 0
    for name, (shape, start) in vector.places.items():
        if start > place:
            pieces.append((f"padding{place}", start - place))
        place = start + math.prod(shape)
        pieces.append((f"{name}.flat", place - start))
    if vector.size > place:
        pieces.append((f"padding{place}", vector.size - place))
    sizes = rewriter.integers([size for _, size in pieces])
    rewriter.nodes.append(helper.make_node("Split", [rows, sizes], [name for name, _ in pieces], name="split", axis=1))
    for name, (shape, _) in vector.places.items():
        rewriter.shaped(f"{name}.flat", shape, name)
    for node in nodes:
        if not own.keys() & {*node.input}:
            rewriter.nodes.append(node)
        elif node.op_type in RULES:
            RULES[node.op_type](rewriter, node)
        else:
            raise unsupported(node, f"there is no rule for {node.op_type}")
    inputs = [
        _samples(takes),
        helper.make_tensor_value_info(TABLE, TensorProto.FLOAT, ["users", vector.size]),
        helper.make_tensor_value_info(USER, TensorProto.INT32, ["n"]),
    ]
    return _model(rewriter.nodes, inputs, shared, vector.classes, [*rewriter.constants.values()])


def _shapes(
    nodes: Sequence[onnx.NodeProto], own: Mapping[str, Shape], shared: Mapping[str, Array], takes: Input
) -> dict[str, Shape]:
    """Infer the shape of every value, for ``SAMPLES`` samples."""
    weights = {**own, **{name: array.shape for name, array in shared.items()}}
    kind = TensorProto.INT64 if takes.what == "tokens" else TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info(takes.name, kind, [SAMPLES, *takes.largest]),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in weights.items()),
    ]
    outputs = [helper.make_empty_tensor_value_info("logits")]
    model = make_model(helper.make_graph(nodes, "shapes", inputs, outputs))
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {
        value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    # values that nothing was inferred of have no axes here; a rule that needs one says so
    return {name: found.get(name, ()) for node in nodes for name in (*node.input, *node.output)} | weights


def _samples(takes: Input) -> onnx.ValueInfoProto:
    kind = TensorProto.INT64 if takes.what == "tokens" else TensorProto.FLOAT
    return helper.make_tensor_value_info(takes.name, kind, ["n", *takes.largest])


def _inputs(vector: UserVector) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (shape, _) in vector.places.items()]


def _model(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto], shared: Mapping[str, Array], classes: int,
    constants: Sequence[onnx.TensorProto] = (),
) -> bytes:  # fmt: skip
    read = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(array, name) for name, array in shared.items() if name in read]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])
    model = make_model(helper.make_graph(nodes, "isoform", inputs, [logits], [*tensors, *constants]))
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)
