"""Lift: turn the constant weights of an ONNX file into inputs, byte by byte, without the onnx package.

ONNX files are protocol buffers: a message is a row of fields, each a varint ``number << 3 | wire type``, then a varint (type 0),
8 bytes (1), a varint length and so many bytes (2), or 4 bytes (5). What lifting needs of ONNX's messages:

    ModelProto   7 graph
    GraphProto   5 initializer (TensorProto, repeated)   11 input (ValueInfoProto, repeated)
    TensorProto  1 dims (repeated)   2 data_type (1 = float)   8 name   9 raw_data   14 data_location (1 = external)
    ValueInfoProto {1 name, 2 type {1 tensor_type {1 elem_type, 2 shape {1 dim {1 dim_value}}}}}

Every other byte is kept as it is. Source: onnx.proto3 of the ONNX project. Must never import onnx.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from isoform.runtime.errors import EngineError
from isoform.runtime.spec import Array

__all__ = ["lift_weights"]

_GRAPH, _INITIALIZER, _INPUT = 7, 5, 11
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _DATA_LOCATION = 1, 2, 8, 9, 14
_FLOAT = 1

Field = tuple[int, int, bytes]
"""Number, wire type, and the bytes after the key; for type 2 without their length."""


def lift_weights(model: bytes) -> tuple[bytes, dict[str, Array]]:
    """Make every float32 initializer an input of the same name and shape.

    Args:
        model: An ONNX file whose initializers lie in the file itself.

    Returns:
        The file with inputs in their place, and name → the initializer's value, float32, in file order.

    Raises:
        EngineError: If it is not a protocol buffer, or a float32 initializer is not stored as plain bytes of its shape.
    """
    weights: dict[str, Array] = {}
    lifted: list[Field] = []
    for number, kind, data in _fields(model):
        if number == _GRAPH and kind == 2:
            graph: list[Field] = []
            for inner in _fields(data):
                tensor = _tensor(inner[2]) if inner[:2] == (_INITIALIZER, 2) else None
                if tensor is None:
                    graph.append(inner)
                else:
                    name, value = tensor
                    weights[name] = value
                    graph.append((_INPUT, 2, _value_info(name, value.shape)))
            data = _message(graph)
        lifted.append((number, kind, data))
    return _message(lifted), weights


def _tensor(data: bytes) -> tuple[str, Array] | None:
    """Name and value of a float32 TensorProto; None if it is of another type."""
    name, dims, kind, raw, located = "", [], 0, b"", 0
    for number, wire, value in _fields(data):
        if number == _DIMS:
            dims += [_varint(value, 0)[0]] if wire == 0 else list(_varints(value))
        elif number == _DATA_TYPE:
            kind = _varint(value, 0)[0]
        elif number == _NAME:
            name = value.decode(errors="replace")
        elif number == _RAW_DATA:
            raw = value
        elif number == _DATA_LOCATION:
            located = _varint(value, 0)[0]
    if kind != _FLOAT:
        return None
    if located or len(raw) != 4 * math.prod(dims):
        raise EngineError(
            f"initializer {name!r} of shape {dims} has {len(raw)} bytes in the file, but {4 * math.prod(dims)} were expected"
        )
    return name, np.frombuffer(raw, dtype="<f4").reshape(dims)


def _value_info(name: str, shape: Iterable[int]) -> bytes:
    dims = [(1, 2, _message([(1, 0, _encoded(size))])) for size in shape]
    tensor_type = _message([(1, 0, _encoded(_FLOAT)), (2, 2, _message(dims))])
    return _message([(1, 2, name.encode()), (2, 2, _message([(1, 2, tensor_type)]))])


def _fields(data: bytes) -> Iterator[Field]:
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            end = _varint(data, place)[1]
        elif kind in (1, 5):
            end = place + (8 if kind == 1 else 4)
        elif kind == 2:
            length, place = _varint(data, place)
            end = place + length
        else:
            raise EngineError(f"the graph has a field of wire type {kind}, so it is not an ONNX file")
        if end > len(data):
            raise EngineError("the graph is cut short")
        yield number, kind, data[place:end]
        place = end


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    value = 0
    for index in range(10):
        if place + index >= len(data):
            raise EngineError("the graph is cut short")
        byte = data[place + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise EngineError("the graph has a number of more than ten bytes, so it is not an ONNX file")


def _varints(data: bytes) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(fields: Iterable[Field]) -> bytes:
    out = bytearray()
    for number, kind, data in fields:
        out += _encoded(number << 3 | kind)
        if kind == 2:
            out += _encoded(len(data))
        out += data
    return bytes(out)
