"""Graphs in which every size is known: fixed samples per batch, and what was computed from sizes turned into constants."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from isoform.compile.gradients.reverse import Shape, Unsupported
from isoform.compile.nodes import make_model
from isoform.runtime.engines.onnx.session import open_session, ort, session_options
from isoform.runtime.errors import EngineError

__all__ = ["fixed"]


def fixed(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Shape], outputs: Sequence[str], *, integers: Sequence[str] = ()
) -> onnx.GraphProto:  # fmt: skip
    """Return a graph of some nodes, simplified, with the shape of every value.

    Args:
        nodes: In order; those that no output needs are left out.
        inputs: Name → shape of all inputs, float32.
        outputs: Names of the outputs.
        integers: Names of inputs that are int64.

    Raises:
        Unsupported: If a size depends on the samples.
    """
    declared = [
        helper.make_tensor_value_info(name, TensorProto.INT64 if name in integers else TensorProto.FLOAT, shape)
        for name, shape in inputs.items()
    ]
    wanted = [helper.make_empty_tensor_value_info(name) for name in outputs]
    model = onnx.shape_inference.infer_shapes(make_model(helper.make_graph(nodes, "fixed", declared, wanted)))
    with tempfile.TemporaryDirectory(prefix="isoform-compile-") as folder:
        path, options = Path(folder) / "simple.onnx", session_options(1)
        # the first level only: it computes constants, and uses no operators but ONNX's own
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        try:
            open_session(model.SerializeToString(), options, what="the network")
        except EngineError as problem:
            raise Unsupported(str(problem)) from None
        simple = onnx.load(path)
    graph = onnx.shape_inference.infer_shapes(simple, strict_mode=True).graph
    left = {name for node in graph.node for name in node.output}  # what was computed away is still described
    for value in (*graph.value_info, *graph.output):
        if value.name in left and not all(axis.HasField("dim_value") for axis in value.type.tensor_type.shape.dim):
            raise Unsupported(f"the size of {value.name!r} depends on the samples")
    return graph
