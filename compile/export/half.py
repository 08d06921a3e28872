"""Forms in float16: weights and activations, with float32 for samples and logits.

TensorRT 10 and newer take the types of the graph as they are, so precision is chosen here and not when an engine is built.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["halved"]

LARGEST = float(np.finfo(np.float16).max)


def halved(file: bytes, *, samples: str) -> bytes:
    """Return a form whose weights and activations are float16.

    Args:
        file: The form in float32.
        samples: Name of the input of samples, which stays as it is, as ``logits`` do.
    """
    model = onnx.load_from_string(file)
    graph = model.graph
    kept = {
        name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]
    }  # scales are float32 in every type
    for tensor in graph.initializer:
        if tensor.name not in kept:
            tensor.CopyFrom(_half(tensor))
    for node in graph.node:
        _retype(node, kept)
    taken = next(value for value in graph.input if value.name == samples)
    measured = taken.type.tensor_type.elem_type == TensorProto.FLOAT
    names = {**({samples: f"{samples}.half"} if measured else {}), "logits": "logits.half"}
    for node in graph.node:
        for fields in (node.input, node.output):
            fields[:] = [names.get(name, name) for name in fields]
    if measured:
        graph.node.insert(0, _cast(samples, f"{samples}.half", TensorProto.FLOAT16))
    graph.node.append(_cast("logits.half", "logits", TensorProto.FLOAT))
    for value in graph.input:
        if value.name != samples and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _cast(x: str, y: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [x], [y], name=f"{y}.cast", to=to)


def _half(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a tensor in float16 if it is float32, cut off at the largest number."""
    if tensor.data_type != TensorProto.FLOAT:
        return tensor
    value = np.clip(numpy_helper.to_array(tensor), -LARGEST, LARGEST).astype(np.float16)
    return numpy_helper.from_array(value, tensor.name)


def _retype(node: onnx.NodeProto, kept: set[str]) -> None:
    """Change the constants and types that a node names."""
    if node.op_type == "Constant" and node.output[0] in kept:
        return
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.CopyFrom(_half(attribute.t))
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            value = helper.get_attribute_value(attribute)
            tensor = numpy_helper.from_array(np.asarray(value, dtype=np.float32))
            attribute.CopyFrom(helper.make_attribute("value", _half(tensor)))
