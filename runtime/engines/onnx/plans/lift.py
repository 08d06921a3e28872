"""Lift: turn initializers of an ONNX file into graph inputs, by editing its bytes, without the onnx package.

ONNX files are protocol buffers (``protobuf.py``). What lifting needs of ONNX's messages:

    ModelProto   7 graph
    GraphProto   1 node (NodeProto, repeated)   5 initializer (TensorProto, repeated)   11 input (ValueInfoProto, repeated)
    NodeProto    1 input (a name, repeated)   4 op_type
    TensorProto  1 dims (repeated)   2 data_type (1 = float)   4 float_data (repeated)   8 name   9 raw_data   14 data_location (1 = external)
    ValueInfoProto {1 name, 2 type {1 tensor_type {1 elem_type, 2 shape {1 dim {1 dim_value}}}}}

Every other byte is kept as it is. Source: onnx.proto3 of the ONNX project. Must never import onnx.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import EngineError
from isoform.runtime.formats.protobuf import Field, edited, encoded, fields, message, messages, varint, varints

__all__ = ["convolution_weights", "fix_inputs", "lift_weights", "read_inputs", "read_weights", "value_info"]

_GRAPH, _NODE, _INITIALIZER, _INPUT = 7, 1, 5, 11
_NODE_INPUT, _NODE_OPERATOR = 1, 4
_DIMS, _DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA, _DATA_LOCATION = 1, 2, 4, 8, 9, 14
_FLOAT = 1


def read_weights(model: bytes) -> dict[str, Array]:
    """Read the float32 initializers of a graph.

    Args:
        model: An ONNX file without external data.

    Returns:
        Name → value, float32, in file order.

    Raises:
        EngineError: If it is not a protocol buffer, or a float32 initializer does not hold the numbers of its shape.
    """
    tensors = (
        _tensor(data) for graph in messages(model, _GRAPH) for data in messages(graph, _INITIALIZER)
    )  # fmt: skip
    return {tensor[0]: tensor[1] for tensor in tensors if tensor is not None}


def convolution_weights(model: bytes) -> dict[str, Array]:
    """Read the float32 initializers that convolutions read, and no other operator. As ``read_weights``."""
    readers: dict[bytes, set[bytes]] = {}
    for graph in messages(model, _GRAPH):
        for node in messages(graph, _NODE):
            operator = next(messages(node, _NODE_OPERATOR), b"")
            for name in messages(node, _NODE_INPUT):
                readers.setdefault(name, set()).add(operator)
    # FusedConv is a convolution with its activation
    return {
        name: value
        for name, value in read_weights(model).items()
        if readers.get(name.encode(), set()) in ({b"Conv"}, {b"FusedConv"})
    }


def read_inputs(model: bytes) -> dict[str, tuple[int | None, ...]]:
    """Read the shapes of a graph's inputs; None for a dynamic size.

    Raises:
        EngineError: If it is not a protocol buffer.
    """
    return {_input_name(info): _shape(info) for graph in messages(model, _GRAPH) for info in messages(graph, _INPUT)}


def _shape(value_info: bytes) -> tuple[int | None, ...]:
    types = (tensor for kind in messages(value_info, 2) for tensor in messages(kind, 1))
    dims = (dim for tensor in types for shape in messages(tensor, 2) for dim in messages(shape, 1))
    return tuple(next((varint(size, 0)[0] for field, _, size in fields(dim) if field == 1), None) for dim in dims)


def lift_weights(model: bytes, inputs: Mapping[str, str], constants: Mapping[str, Array]) -> bytes:
    """Turn float32 initializers into inputs, or replace their values. Initializers that are not named are kept.

    Args:
        model: An ONNX file without external data.
        inputs: Initializer → name of the input of the same shape that replaces it in all nodes of the main graph.
        constants: Initializer → new value, of the same shape.

    Returns:
        The new file.

    Raises:
        EngineError: As ``read_weights``.
    """
    renamed = {name.encode(): other.encode() for name, other in inputs.items()}

    def node(data: bytes) -> bytes:
        return edited(data, _NODE_INPUT, lambda name: renamed.get(name, name))

    def graph(data: bytes) -> bytes:
        edited_fields: list[Field] = []
        for number, kind, content in fields(data):
            tensor = _tensor(content) if (number, kind) == (_INITIALIZER, 2) else None
            if tensor is not None and tensor[0] in inputs:
                edited_fields.append((_INPUT, 2, value_info(inputs[tensor[0]], tensor[1].shape)))
            elif tensor is not None and tensor[0] in constants:
                value = np.ascontiguousarray(constants[tensor[0]], dtype="<f4").tobytes()
                edited_fields.append((_INITIALIZER, 2, _with_raw_data(content, value)))
            elif (number, kind) == (_NODE, 2):
                edited_fields.append((_NODE, 2, node(content)))
            else:
                edited_fields.append((number, kind, content))
        return message(edited_fields)

    return edited(model, _GRAPH, graph)


def fix_inputs(model: bytes, values: Mapping[str, Array]) -> bytes:
    """Turn float32 inputs into initializers: the inverse of ``lift_weights``.

    Args:
        model: An ONNX file.
        values: Input → value.

    Returns:
        The new file.
    """

    def graph(data: bytes) -> bytes:
        kept = [field for field in fields(data) if not (field[:2] == (_INPUT, 2) and _input_name(field[2]) in values)]
        made = [(_INITIALIZER, 2, _tensor_proto(name, value)) for name, value in values.items()]
        return message([*kept, *made])

    return edited(model, _GRAPH, graph)


def _with_raw_data(tensor: bytes, value: bytes) -> bytes:
    kept = [field for field in fields(tensor) if field[0] not in (_FLOAT_DATA, _RAW_DATA)]
    return message([*kept, (_RAW_DATA, 2, value)])


def _tensor(data: bytes) -> tuple[str, Array] | None:
    """Return name and value of a float32 TensorProto; None if it has another dtype."""
    name, dims, kind, raw, located = "", [], 0, b"", 0
    for number, wire, value in fields(data):
        if number == _DIMS:  # repeated numbers may be packed or not; readers must accept both
            dims += [varint(value, 0)[0]] if wire == 0 else list(varints(value))
        elif number == _DATA_TYPE:
            kind = varint(value, 0)[0]
        elif number == _NAME:
            name = value.decode(errors="replace")
        elif number == _RAW_DATA:
            raw = value
        elif number == _FLOAT_DATA:  # packed or not, the same bytes as raw ones
            raw += value
        elif number == _DATA_LOCATION:
            located = varint(value, 0)[0]
    if kind != _FLOAT:
        return None
    if located or len(raw) != 4 * math.prod(dims):
        raise EngineError(
            f"initializer {name!r} of shape {dims} has {len(raw)} bytes in the file, but {4 * math.prod(dims)} were expected"
        )
    try:
        return name, np.frombuffer(raw, dtype="<f4").reshape(dims)
    except (ValueError, OverflowError):
        raise EngineError(
            f"initializer {name!r} has a shape of {len(dims)} dimensions that no array can have"
        ) from None


def _tensor_proto(name: str, value: Array) -> bytes:
    dims: list[Field] = [(_DIMS, 0, encoded(size)) for size in value.shape]
    data = np.ascontiguousarray(value, dtype="<f4").tobytes()
    return message([*dims, (_DATA_TYPE, 0, encoded(_FLOAT)), (_NAME, 2, name.encode()), (_RAW_DATA, 2, data)])


def _input_name(value_info: bytes) -> str:
    return next(messages(value_info, 1), b"").decode(errors="replace")


def value_info(name: str, shape: Iterable[int]) -> bytes:
    """Encode a float32 ValueInfoProto, an input or output, of a shape."""
    dims = [(1, 2, message([(1, 0, encoded(size))])) for size in shape]
    tensor_type = message([(1, 0, encoded(_FLOAT)), (2, 2, message(dims))])
    return message([(1, 2, name.encode()), (2, 2, message([(1, 2, tensor_type)]))])
