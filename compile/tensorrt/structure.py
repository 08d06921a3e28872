"""What is left of a form without its shared weights: two forms with the same structure differ in what a refit can replace."""

from __future__ import annotations

import hashlib

import onnx
from onnx import TensorProto

__all__ = ["structure_of"]

REFITTED = frozenset(
    {
        "Add",
        "BatchNormalization",
        "Conv",
        "Div",
        "Gather",
        "Gemm",
        "LayerNormalization",
        "MatMul",
        "Mul",
        "PRelu",
        "Sub",
    }
)
"""Operators whose constants are weights. Those of others, as the scales of a Resize or of int8, say what is computed."""


def structure_of(file: bytes) -> str:
    """Return the sha256 of a form without the values of its weights.

    Args:
        file: The form's ONNX file.
    """
    graph = onnx.load_from_string(file)
    readers: dict[str, set[str]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    for tensor in graph.graph.initializer:
        measured = tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
        if measured and readers.get(tensor.name, set()) <= REFITTED:
            for field in ("raw_data", "float_data", "int32_data"):
                tensor.ClearField(field)
    graph.ClearField("metadata_props")
    return hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()
