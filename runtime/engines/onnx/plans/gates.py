"""Squeeze-and-excite gates in ONNX Runtime's blocked layout, for a fixed batch size.

A gate multiplies features y (n, E, H, W) by one number per sample and channel, q (n, E, 1, 1). ONNX Runtime has no such product in its
blocked (NCHWc) layout, so an optimised graph leaves it and comes back:

    y blocked ── ReorderOutput ── Mul q ── ReorderInput ── blocked

Multiplying channel by channel is also what a depthwise convolution with a 1×1 kernel does, and that one exists in the blocked layout:

    y blocked ── Conv with weight q (n·E, 1, 1, 1) and n·E groups ── blocked

The samples of a batch become channels of one image for it, which in the blocked layout is a change of shape only. The result is
equal to the last bit, because each number is one product either way. Two reorders and a broadcast less per block save 6 to 12 % of a
run (docs/log.md). But ``group`` is an attribute: the rewritten graph runs one batch size.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from isoform.runtime.engines.onnx.plans.lift import read_inputs, read_weights
from isoform.runtime.formats.protobuf import Field, edited, encoded, fields, message, messages, varint

__all__ = ["for_batch"]

_BLOCKED = b"com.microsoft.nchwc"
_GRAPH, _NODE, _INITIALIZER, _INPUT, _OUTPUT = 7, 1, 5, 11, 12
_INT64 = 7
_PER_CHANNEL = {b"Conv", b"FusedConv", b"ReorderOutput", b"ReorderInput", b"Relu", b"Sigmoid", b"HardSigmoid", b"Clip"}
"""Operators between the pooling and the gate: none of them changes a feature's height or width of 1."""
_WEIGHT, _ROWS, _MERGED, _SPLIT = b"gate weight", (-1, 1, 1, 1), b"gate merged", b"gate split"


@dataclasses.dataclass(frozen=True, eq=False)
class _Node:
    inputs: Sequence[bytes]
    outputs: Sequence[bytes]
    operator: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class _Gate:
    """One gate of a graph: its nodes, by position, and the tensors around them."""

    removed: tuple[int, ...]
    """Mul and ReorderInput, the last of them last; ReorderOutput as well, unless something else reads the features in plain layout."""
    features: bytes
    gate: bytes
    output: bytes
    channels: int
    """Channels in the blocked layout, padding included."""
    padded: bool
    """Whether there is padding: then E is not a multiple of the layout's block."""


def for_batch(model: bytes, samples: int) -> bytes | None:
    """Rewrite the gates of an optimised graph for one batch size.

    Args:
        model: An ONNX file that ONNX Runtime has optimised, or a plan's graph.
        samples: The batch size.

    Returns:
        The new file; None if the graph has no such gates.

    Raises:
        EngineError: If it is not a protocol buffer, or a weight is not stored as raw bytes.
    """
    weights = {name: array.shape for name, array in read_weights(model).items()}
    shapes: dict[str, tuple[int | None, ...]] = {**weights, **read_inputs(model)}
    changed = False

    def graph(data: bytes) -> bytes:
        nonlocal changed
        found = list(_gates(data, shapes))
        changed = changed or bool(found)
        return _rewritten(data, found, samples) if found else data

    result = edited(model, _GRAPH, graph)
    return result if changed else None


def _gates(graph: bytes, shapes: Mapping[str, tuple[int | None, ...]]) -> Iterator[_Gate]:
    contents = list(messages(graph, _NODE))
    nodes = [_node(content) for content in contents]
    maker = {name: number for number, node in enumerate(nodes) for name in node.outputs}
    uses = Counter(name for node in nodes for name in node.inputs)
    # an output of the graph is read by the caller as well
    uses.update(next(messages(content, 1), b"") for content in messages(graph, _OUTPUT))
    for last, node in enumerate(nodes):
        product = maker.get(node.inputs[0]) if node.operator == b"ReorderInput" else None
        if product is None or nodes[product].operator != b"Mul" or uses[node.inputs[0]] != 1:
            continue
        for features, gate in (nodes[product].inputs, nodes[product].inputs[::-1]):
            first = maker.get(features)
            if first is None or nodes[first].operator != b"ReorderOutput":
                continue
            blocked = nodes[first].inputs[0]
            made = maker.get(blocked)
            if made is None or nodes[made].operator != b"Conv":
                continue
            channels = next(iter(shapes.get(nodes[made].inputs[1].decode(errors="replace"), ())), None)
            if channels and _is_pooled(gate, nodes, maker):
                padded = _channels(contents[first]) != channels
                # ONNX Runtime pools in plain layout if the blocked one has padding
                removed = (first, product, last) if uses[features] == 1 else (product, last)
                yield _Gate(removed, blocked, gate, node.outputs[0], channels, padded)
                break


def _is_pooled(name: bytes, nodes: Sequence[_Node], maker: dict[bytes, int]) -> bool:
    """Return whether a tensor has height and width 1 and its own values for each sample, because a global pooling made it."""
    for _ in nodes:
        if (number := maker.get(name)) is None:
            return False
        if nodes[number].operator == b"GlobalAveragePool":
            return True
        if nodes[number].operator not in _PER_CHANNEL:
            return False
        name = nodes[number].inputs[0]
    return False


def _rewritten(graph: bytes, found: Sequence[_Gate], samples: int) -> bytes:
    removed = {number for gate in found for number in gate.removed}
    made = {gate.removed[-1]: list(_made(gate, str(number).encode(), samples)) for number, gate in enumerate(found)}
    kept, numbers = list[Field](), itertools.count()
    for field in fields(graph):
        number = next(numbers) if field[:2] == (_NODE, 2) else None
        kept += [(_NODE, 2, node) for node in made.get(number, [])] if number in removed else [field]
    # In ONNX's Reshape, 0 keeps a size and -1 is what is left.
    shapes = {_WEIGHT: _ROWS, _MERGED: (1, -1, 0, 0), _SPLIT: (samples, -1, 0, 0)}
    return message([*kept, *((_INITIALIZER, 2, _integers(name, shape)) for name, shape in shapes.items())])


def _made(gate: _Gate, number: bytes, samples: int) -> Iterator[bytes]:
    weight, merged, product = (b"gate" + number + suffix for suffix in (b" q", b" y", b" qy"))
    column = gate.gate
    if gate.padded:  # with one pixel the blocked layout is the plain one, but for the zeros
        column = weight + b" padded"
        yield _encoded(b"ReorderInput", [gate.gate], column, _BLOCKED)
    yield _encoded(b"Reshape", [column, _WEIGHT], weight)
    group = _attribute(b"group", samples * gate.channels)
    if samples == 1:
        yield _encoded(b"Conv", [gate.features, weight], gate.output, _BLOCKED, group)
        return
    yield _encoded(b"Reshape", [gate.features, _MERGED], merged)
    yield _encoded(b"Conv", [merged, weight], product, _BLOCKED, group)
    yield _encoded(b"Reshape", [product, _SPLIT], gate.output)


def _node(data: bytes) -> _Node:
    found: dict[int, list[bytes]] = {1: [], 2: [], 4: []}
    for number, _, content in fields(data):
        if number in found:
            found[number].append(content)
    return _Node(found[1], found[2], b"".join(found[4]))


def _channels(node: bytes) -> int | None:
    """Return the attribute ``channels`` of a node."""
    for attribute in messages(node, 5):
        if next(messages(attribute, 1), b"") == b"channels":
            return next((varint(content, 0)[0] for number, _, content in fields(attribute) if number == 3), None)
    return None


def _encoded(operator: bytes, inputs: Iterable[bytes], output: bytes, domain: bytes = b"", *attributes: bytes) -> bytes:
    parts: list[Field] = [*((1, 2, name) for name in inputs), (2, 2, output), (4, 2, operator), (7, 2, domain)]
    return message([*parts, *((5, 2, attribute) for attribute in attributes)])


def _attribute(name: bytes, value: int) -> bytes:
    return message([(1, 2, name), (3, 0, encoded(value)), (20, 0, encoded(2))])  # type 2 is INT


def _integers(name: bytes, values: Sequence[int]) -> bytes:
    data = np.array(values, dtype="<i8").tobytes()
    return message([(1, 0, encoded(len(values))), (2, 0, encoded(_INT64)), (8, 2, name), (9, 2, data)])
