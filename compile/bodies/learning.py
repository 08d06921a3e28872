"""Graphs for learning on the device, of a body: forward, backward, and in segments that end before each BN.

    forward      samples, weights that differ → embedding; any number of samples
    backward     the same for ``BATCH`` samples, and the gradient of the embedding → gradients of the weights that differ
    segmentNN    what is needed up to the input of the next BN: earlier values → ``<BN>.input``, and what later segments read; the last one
                 ends in the embedding. What a BN writes is ``<BN>.output``

The shared weights are external initializers in all of them, as in ``portable``. There is no backward graph where lengths are open or an
operator has no rule: gradients are estimated by ``forward`` then. And there are no segments where BN is shared, or one layer of BN is used twice.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from isoform.compile.gradients.backward import backward_graph
from isoform.compile.gradients.reverse import Unsupported
from isoform.compile.network_file import external
from isoform.compile.nodes import make_model
from isoform.runtime.bodies.body import Body
from isoform.runtime.bodies.learning import EMBEDDING, GIVEN, gradient_name, input_name, output_name
from isoform.runtime.inputs import AXES
from isoform.runtime.learn.learner import BATCH

__all__ = ["Learnable", "learning_graphs"]

log = logging.getLogger("isoform.compile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learnable:
    """A body and what of it differs between signatures."""

    body: Body
    nodes: Sequence[onnx.NodeProto]
    constants: Sequence[str]
    """Names of the weights that all signatures share, in the order of the graph."""

    @property
    def changing(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of the other weights."""
        return {name: shape for name, shape in self.body.graph_weights.items() if name not in self.constants}


def learning_graphs(subject: Learnable) -> dict[str, bytes]:
    """Return the graphs by name; none if nothing but the logits layer differs."""
    if not subject.changing:
        return {}
    head = next(node for node in subject.nodes if "logits.weight" in node.input)
    nodes = [
        *_up_to(subject.nodes, head.input[0]),
        helper.make_node("Identity", [head.input[0]], [EMBEDDING], name=EMBEDDING),
    ]
    found = {"forward": _forward(subject, nodes)}
    try:
        found["backward"] = _backward(subject, nodes)
    except Unsupported as problem:
        log.info("no backward pass on the device, so parts are fitted by forward passes alone: %s", problem)
    return {**found, **_segments(subject, nodes)}


def _up_to(nodes: Sequence[onnx.NodeProto], *outputs: str) -> list[onnx.NodeProto]:
    """Return the nodes that some values depend on, in order."""
    wanted, kept = {*outputs}, []
    for node in reversed(nodes):
        if wanted & {*node.output}:
            wanted |= {*node.input}
            kept.append(node)
    return kept[::-1]


def _encoded(
    subject: Learnable, nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto], outputs: Mapping[str, Sequence[int | str] | None]
) -> bytes:  # fmt: skip
    """Encode a graph whose shared weights are external."""
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        if shape
        else helper.make_empty_tensor_value_info(name)
        for name, shape in outputs.items()
    ]
    read = {name for node in nodes for name in node.input}
    shapes = {name: subject.body.graph_weights[name] for name in subject.constants}
    # all of them, in the same order and at the same offsets, whether this graph reads them or not
    tensors = [tensor for tensor in external(shapes) if tensor.name in read]
    graph = helper.make_graph(nodes, "isoform", inputs, results, tensors)
    return make_model(graph).SerializeToString(deterministic=True)


def _samples(subject: Learnable, count: int | str) -> onnx.ValueInfoProto:
    takes = subject.body.input
    sizes = [AXES[takes.what][axis] if size is None else size for axis, size in enumerate(takes.shape)]
    return helper.make_tensor_value_info(
        takes.name, TensorProto.INT64 if takes.what == "tokens" else TensorProto.FLOAT, [count, *sizes]
    )


def _weights(shapes: Mapping[str, Sequence[int]]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def _forward(subject: Learnable, nodes: Sequence[onnx.NodeProto]) -> bytes:
    inputs = [_samples(subject, "n"), *_weights(subject.changing)]
    return _encoded(subject, nodes, inputs, {EMBEDDING: ["n", subject.body.embedding]})


def _backward(subject: Learnable, nodes: Sequence[onnx.NodeProto]) -> bytes:
    takes, body = subject.body.input, subject.body
    if takes.open:
        raise Unsupported("the length of samples is open")
    inputs = {takes.name: (BATCH, *takes.largest), **body.graph_weights}
    wanted = {name: gradient_name(name) for name in subject.changing}
    file = backward_graph(
        nodes, inputs, EMBEDDING, wanted, given=GIVEN, integers=[takes.name] if takes.what == "tokens" else []
    )  # fmt: skip
    graph = onnx.load_from_string(file).graph
    kept = [value for value in graph.input if value.name not in subject.constants]
    constants = [
        helper.make_node("Constant", [], [tensor.name], name=tensor.name, value=tensor) for tensor in graph.initializer
    ]
    return _encoded(
        subject,
        [*constants, *graph.node],
        kept,
        {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.output},
    )


def _segments(subject: Learnable, nodes: Sequence[onnx.NodeProto]) -> dict[str, bytes]:
    """Cut the graph before every BN."""
    body = subject.body
    places = {part: norm.name for norm in body.norms for part in norm.shapes}
    reads: dict[str, str] = {}
    writes: dict[str, str] = {}
    inside = []
    for node in nodes:
        parts = [part for part in node.input if part in places]
        if not parts:
            inside.append(node)
        for part in parts:
            name = places[part]
            if part.endswith(".scale"):
                if name in reads:  # one BN at two places of the network has no order
                    return {}
                reads[name] = node.input[0]
            if part.endswith(".shift"):
                writes[node.output[0]] = output_name(name)
    if not reads or not body.private_norms or [*reads] != [norm.name for norm in body.norms]:
        return {}
    inside = [_renamed(node, writes) for node in inside]
    ends = {input_name(name): writes.get(value, value) for name, value in reads.items()}
    inside += [helper.make_node("Identity", [value], [name], name=name) for name, value in ends.items()]
    have, steps = {body.input.name, *body.graph_weights, *writes.values()}, list[list[onnx.NodeProto]]()
    for target in (*ends, EMBEDDING):
        steps.append(_cut(inside, target, have))
        have |= {name for node in steps[-1] for name in node.output}
    found = {}
    for number, (step, target) in enumerate(zip(steps, (*ends, EMBEDDING), strict=True)):
        made = {name for node in step for name in node.output}
        later = {name for other in steps[number + 1 :] for node in other for name in node.input}
        outputs = [target, *sorted((made & later) - {target})]
        given = sorted({name for node in step for name in node.input if name} - made - {*subject.constants})
        found[f"segment{number:03d}"] = _encoded(subject, step, _declared(subject, given), dict.fromkeys(outputs))
    return found


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    for place, name in enumerate(copy.input):
        copy.input[place] = names.get(name, name)
    return copy


def _cut(nodes: Sequence[onnx.NodeProto], target: str, have: set[str]) -> list[onnx.NodeProto]:
    wanted, kept = {target}, []
    for node in reversed(nodes):
        if wanted & {*node.output} - have:
            wanted |= {*node.input}
            kept.append(node)
    return kept[::-1]


def _declared(subject: Learnable, names: Sequence[str]) -> list[onnx.ValueInfoProto]:
    """Declare a segment's inputs; those between segments have no shape."""
    found = []
    for name in names:
        if name == subject.body.input.name:
            found.append(_samples(subject, "n"))
        elif name in subject.changing:
            found += _weights({name: subject.changing[name]})
        else:
            found.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return found
