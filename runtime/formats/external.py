"""Check for external data: a graph must not make ONNX Runtime read other files.

A tensor in an ONNX file may refer to external data, and ONNX Runtime reads whatever file it names. Tensors occur in many places of
a model; all of them are checked before ONNX Runtime loads the graph:

    ModelProto       7 graph             20 training_info          25 functions
    GraphProto       1 node               5 initializer            15 sparse_initializer
    NodeProto        5 attribute
    AttributeProto   5 t    6 g    10 tensors    11 graphs    22 sparse_tensor    23 sparse_tensors
    FunctionProto    7 node              11 attribute_proto
    TrainingInfoProto      1 initialization         2 algorithm
    SparseTensorProto      1 values                 2 indices
    TensorProto     13 external_data {1 key, 2 value}              14 data_location (0 = in the file)

Source: onnx.proto3 of the ONNX project. Must never import onnx.
"""

from __future__ import annotations

from isoform.runtime.errors import EngineError
from isoform.runtime.formats.protobuf import fields

__all__ = ["refuse_external_data"]

_WHERE = {
    "model": {7: "main graph", 20: "training", 25: "function"},
    "main graph": {1: "node", 5: "weight", 15: "sparse"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Type of message → field number → type of the nested message, for all messages that can contain tensors."""
_DEPTH = 100  # the limit of protocol buffers' own readers
"""Maximum depth of nested messages."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_ORT_FORMAT = b"ORTM"
"""Bytes 4 to 8 of ONNX Runtime's own format."""


def refuse_external_data(model: bytes, *, location: bytes | None = None) -> None:
    """Reject a graph that reads data from other files.

    Args:
        model: An ONNX file.
        location: The only external location allowed, for weights of the main graph; None to allow none.

    Raises:
        EngineError: If a tensor has another external location, or the file is not an ONNX file.
    """
    if model[4:8] == _ORT_FORMAT:
        raise EngineError("the graph is in ONNX Runtime's own format, but an ONNX file was expected")
    left = [("model", model, 0)]  # a stack instead of recursion, whose limit a nested file could exceed
    while left:
        kind, data, depth = left.pop()
        if depth > _DEPTH:
            raise EngineError(f"the graph has more than {_DEPTH} nested messages")
        if kind in ("tensor", "weight"):
            _check(data, location if kind == "weight" else None)
            continue
        inner = _WHERE[kind]
        left += [
            (inner[number], part, depth + 1) for number, wire, part in fields(data) if wire == 2 and number in inner
        ]


def _check(tensor: bytes, location: bytes | None) -> None:
    """Reject a tensor with external data at another location than ``location``."""
    found = [(number, part) for number, _, part in fields(tensor) if number in (_EXTERNAL_DATA, _DATA_LOCATION)]
    entries = [part for number, part in found if number == _EXTERNAL_DATA]
    if not entries and all(part == b"\0" for _, part in found):  # data_location = DEFAULT: in the file
        return
    pairs = [[(number, part) for number, _, part in fields(entry)] for entry in entries]
    named = [
        pair
        for pair in pairs
        # offset and length only choose a place within the location
        if not (len(pair) == 2 and pair[0] in ((1, b"offset"), (1, b"length")) and pair[1][0] == 2)
    ]
    if location is None or named != [[(1, b"location"), (2, location)]]:
        places = ", ".join(
            repr(part.decode(errors="replace")) for pair in named for number, part in pair if number == 2
        )
        raise EngineError(f"the graph reads data from another file ({places or 'unnamed'}), which is not allowed")
