"""External data: a graph from a file must not make ONNX Runtime read other files.

A tensor of an ONNX file may say that its data lies elsewhere, and ONNX Runtime then reads whatever file it names. Tensors occur in
many places of a model; every one of them is looked at before ONNX Runtime sees the graph:

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
"""Kind of message → number of a field → kind of the message in it, as far as tensors can lie in it."""
_DEPTH = 100
"""Messages inside one another: as many as protocol buffers' own readers take."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_ORT_FORMAT = b"ORTM"
"""What ONNX Runtime's own format has at byte 4."""


def refuse_external_data(model: bytes, *, location: bytes | None = None) -> None:
    """Refuse a graph that takes data from other files.

    Args:
        model: An ONNX file.
        location: The one name that weights of the main graph may give as the place of their data; None if none may.

    Raises:
        EngineError: If a tensor names another place, or the file is not an ONNX file.
    """
    if model[4:8] == _ORT_FORMAT:
        raise EngineError("the graph is in ONNX Runtime's own format, but an ONNX file was expected")
    left = [("model", model, 0)]
    while left:
        kind, data, depth = left.pop()
        if depth > _DEPTH:
            raise EngineError(f"the graph has more than {_DEPTH} messages inside one another")
        if kind in ("tensor", "weight"):
            _check(data, location if kind == "weight" else None)
            continue
        inner = _WHERE[kind]
        left += [
            (inner[number], part, depth + 1) for number, wire, part in fields(data) if wire == 2 and number in inner
        ]


def _check(tensor: bytes, location: bytes | None) -> None:
    """Refuse a tensor whose data lies elsewhere than at ``location``."""
    found = [(number, part) for number, _, part in fields(tensor) if number in (_EXTERNAL_DATA, _DATA_LOCATION)]
    entries = [part for number, part in found if number == _EXTERNAL_DATA]
    if not entries and all(part == b"\0" for _, part in found):
        return
    pairs = [[(number, part) for number, _, part in fields(entry)] for entry in entries]
    named = [
        pair
        for pair in pairs
        if not (len(pair) == 2 and pair[0] in ((1, b"offset"), (1, b"length")) and pair[1][0] == 2)
    ]
    if location is None or named != [[(1, b"location"), (2, location)]]:
        places = ", ".join(
            repr(part.decode(errors="replace")) for pair in named for number, part in pair if number == 2
        )
        raise EngineError(f"the graph takes data from another file ({places or 'unnamed'}), which is refused")
