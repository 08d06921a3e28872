"""Weights of an ONNX file become inputs, byte by byte."""

import contextlib

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st

from isoform.runtime.engines.onnx.plans.lift import convolution_weights, lift_weights, read_weights
from isoform.runtime.errors import EngineError


def test_lifting_agrees_with_the_onnx_package() -> None:
    """Weights become inputs of the same names and shapes, with the values that the onnx package reads; all else stays."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 3, 3, 3)), "b": rng.normal(size=4), "s": np.array(2.0)}
    initializers = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    initializers.append(onnx.numpy_helper.from_array(np.array([1, -1]), "shape"))
    node = onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[1, 1])
    image, result = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", None, 300, None]) for name in "xy"
    )
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [image], [result], initializers), producer_name="test"
    )
    found = read_weights(model.SerializeToString())
    lifted = onnx.load_from_string(
        lift_weights(model.SerializeToString(), {"w": "w", "b": "other"}, {"s": np.array(5.0)})
    )
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.astype(np.float32).tolist() for name, value in weights.items()
    }
    assert [entry.name for entry in lifted.graph.initializer] == ["s", "shape"]
    assert onnx.numpy_helper.to_array(lifted.graph.initializer[0]) == 5.0
    shapes = {
        entry.name: [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        for entry in lifted.graph.input
        if entry.name != "x"
    }
    assert shapes == {"w": [4, 3, 3, 3], "other": [4]}
    assert all(entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for entry in lifted.graph.input)
    assert list(lifted.graph.node[0].input) == ["x", "w", "other"]
    lifted.graph.node[0].input[2] = "b"
    assert lifted.graph.node == model.graph.node
    assert lifted.graph.output == model.graph.output
    assert (lifted.producer_name, lifted.opset_import) == (model.producer_name, model.opset_import)


@given(st.binary(max_size=60), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=70), st.binary(max_size=8))
def test_lifting_bytes_that_are_no_graph(data, dims, name) -> None:
    """Any bytes are lifted or refused, never anything else; so are tensors of any shape, and nodes with any names."""
    tensor = onnx.TensorProto(dims=dims, data_type=1, name="w", raw_data=bytes(4 * (int(np.prod(dims)) % 100)))
    graph = onnx.GraphProto(initializer=[tensor]).SerializeToString()
    node = b"\x0a" + bytes([len(name) + 2, 0x0A, len(name)]) + name
    for candidate in (data, *(b"\x3a" + _length(part) + part for part in (graph, node))):
        with contextlib.suppress(EngineError):
            weights = read_weights(candidate)
            assert isinstance(lift_weights(candidate, {name: name for name in weights}, {}), bytes)


def _length(data: bytes) -> bytes:
    return bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 0x7F | 0x80, len(data) >> 7])


def numbers(name, values, dims) -> onnx.TensorProto:
    """A tensor whose numbers are a repeated field instead of raw bytes, as ONNX Runtime writes those of Constant nodes."""
    return onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, dims, values)


def test_numbers_that_are_no_raw_bytes() -> None:
    """They are read as they are, and replaced, not joined, by a new value."""
    node = onnx.helper.make_node("Add", ["x", "a"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [numbers("a", [1.5, -2.0], [2])])
    )
    assert not model.graph.initializer[0].raw_data
    file = model.SerializeToString()
    assert read_weights(file)["a"].tolist() == [1.5, -2.0]
    changed = onnx.load_from_string(lift_weights(file, {}, {"a": np.array([3.0, 4.0])}))
    assert onnx.numpy_helper.to_array(changed.graph.initializer[0]).tolist() == [3.0, 4.0]
    assert read_weights(changed.SerializeToString())["a"].tolist() == [3.0, 4.0]


def test_weights_of_convolutions() -> None:
    """Those that a convolution reads, and no other operator: a matrix product is faster with constants."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w", "both"], ["c"]),
        onnx.helper.make_node("FusedConv", ["c", "fused"], ["f"], domain="com.microsoft"),
        onnx.helper.make_node("MatMul", ["f", "m"], ["p"]),
        onnx.helper.make_node("Add", ["p", "both"], ["y"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    weights = [numbers(name, [1.0], [1, 1, 1, 1]) for name in ("w", "both", "fused", "m", "unused")]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], weights))
    assert set(convolution_weights(model.SerializeToString())) == {"w", "fused"}
