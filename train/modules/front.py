"""A frozen front: a network that is the same for everybody and comes before the module, an ONNX file or a torch module.

It is stored complete, computed once per sample, and never trained; what differs between users begins at its features.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx.version_converter
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from isoform.runtime.arrays import Array
from isoform.runtime.bodies.reference import evaluate
from isoform.runtime.errors import CompileError, EngineError, SpecError, UsageError, first_line
from isoform.runtime.formats.external import refuse_external_data
from isoform.runtime.inputs import Input
from isoform.train.modules.checks import checked_module
from isoform.train.modules.export import OPSET
from isoform.train.modules.graph import needed, refuse_control_flow

__all__ = ["front_from"]

LIMIT = 1e-3
"""Largest accepted difference of a sample's features alone from those in a batch, relative to the largest feature."""


def front_from(
    front: str | Path | bytes | nn.Module, takes: Input, example: Tensor, *, output: str | None
) -> tuple[bytes, Tensor]:
    """Make the ONNX file of a front.

    Args:
        front: A torch module, in evaluation mode; or an ONNX file, or its path.
        takes: Describes its samples.
        example: Samples, shape (n, …).
        output: Name of the tensor of an ONNX file that is the features; None for its first output.

    Returns:
        The file, from ``takes.name`` to ``features``, any number of samples; and the example's features, (n, …), float32.

    Raises:
        UsageError: If the arguments do not go together.
        SpecError: If the file is no ONNX graph of one input, has no such tensor, or keeps its weights in other files.
        CompileError: If a module cannot be exported, a graph has control flow, or what it computes for a sample depends on the others.
    """
    if isinstance(front, nn.Module):
        if output is not None:
            raise UsageError("front_output names a tensor of an ONNX file, but the front is a module; leave it out")
        file = _exported(front, takes, example)
    else:
        file = _cut(front, takes, output)
    found = _features(file, takes, example.numpy())
    alone = np.concatenate([_features(file, takes, example[i : i + 1].numpy()) for i in range(min(2, len(example)))])
    twice = _features(file, takes, np.concatenate([example.numpy()] * 2))
    gap = max(float(np.abs(found[: len(alone)] - alone).max()), float(np.abs(twice[len(found) :] - found).max()))
    if not gap <= LIMIT * max(1.0, float(np.abs(found).max())):
        raise CompileError(
            f"the front's features of a sample differ by {gap:.1e} with the other samples in a batch; choose a tensor that is of each sample alone"
        )
    return file, torch.from_numpy(np.array(found))


def _exported(module: nn.Module, takes: Input, example: Tensor) -> bytes:
    checked_module(module)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module, (example,), cast(Any, file), input_names=[takes.name], output_names=["features"], opset_version=OPSET,
                dynamic_axes={takes.name: {0: "n"}, "features": {0: "n"}}, dynamo=False,
            )  # fmt: skip
        except Exception as problem:  # torch's errors of exporting have no common base
            raise CompileError(
                f"torch cannot export the front ({type(module).__name__}): {first_line(problem)}; export it yourself, and give the ONNX file"
            ) from None
    return file.getvalue()


def _cut(source: str | Path | bytes, takes: Input, output: str | None) -> bytes:
    """Return the part of an ONNX file up to a tensor."""
    where = "the front" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        model = onnx.load_from_string(data)
        if not model.graph.output:
            raise SpecError(f"{where} is no valid ONNX file: it has no output")
        refuse_external_data(data)
    except SpecError:
        raise
    except OSError as problem:
        raise SpecError(f"{where} cannot be read: {problem.strerror or problem}") from None
    except EngineError as problem:
        raise SpecError(f"{where} cannot be a front: {problem}; save its weights in the file") from None
    except Exception as problem:  # protobuf's errors have no common base
        raise SpecError(f"{where} is no valid ONNX file: {first_line(problem)}") from None
    today = _of_today(model)
    graph = today.graph
    made = {name for node in graph.node for name in node.output}
    wanted = output or graph.output[0].name
    if wanted not in made:
        raise SpecError(
            f"{where} has no tensor {wanted!r}; it ends in {', '.join(value.name for value in graph.output)}"
        )
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise SpecError(f"{where} takes {', '.join(inputs) or 'nothing'}, but one input was expected, the samples")
    kept = needed(graph.node, wanted)
    refuse_control_flow(kept, "the front")
    read = {name for node in kept for name in node.input}
    nodes = [_renamed(node, {inputs[0]: takes.name, wanted: "features"}) for node in kept]
    kind = TensorProto.INT64 if takes.what == "tokens" else TensorProto.FLOAT
    samples = helper.make_tensor_value_info(takes.name, kind, ["n", *takes.shape])
    features = helper.make_empty_tensor_value_info("features")
    cut = helper.make_graph(
        nodes, "front", [samples], [features], [tensor for tensor in graph.initializer if tensor.name in read]
    )
    made_model = helper.make_model(
        cut, opset_imports=list(today.opset_import), ir_version=min(model.ir_version, 8), producer_name="isoform"
    )
    return bytes(made_model.SerializeToString(deterministic=True))


def _of_today(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a graph of an older operator set, in which the onnx package's evaluator takes BN for one in training; as it is if that fails."""
    if any(entry.version >= OPSET for entry in model.opset_import if entry.domain in ("", "ai.onnx")):
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception:  # the converter's errors have no common base; what it cannot convert may run all the same
        return model


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    for values in (copy.input, copy.output):
        for place, name in enumerate(values):
            values[place] = names.get(name, name)
    return copy


def _features(file: bytes, takes: Input, x: Array) -> Array:
    try:
        found = evaluate(file, {takes.name: x})
    except Exception as problem:  # of numpy or the onnx package, without a common base
        raise CompileError(
            f"the front cannot run {len(x)} samples of shape {x.shape[1:]}: {first_line(problem)}; give samples of the shape that it takes"
        ) from None
    if found.ndim < 2 or len(found) != len(x):
        raise CompileError(
            f"the front makes features of shape {found.shape} of {len(x)} samples, but (n, …) was expected"
        )
    return found
