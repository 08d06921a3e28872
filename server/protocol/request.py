"""The Open Inference Protocol's JSON: bytes → samples, logits → answer. No Flask, no network; arrays in, objects out.

Request:   {"id"?, "parameters"?, "inputs": [{"name": "image", "shape": [n, c, h, w], "datatype": "FP32", "data": [...]}], "outputs"?: [{"name"}]}
Answer:    {"model_name", "id"?, "parameters": {"signature": digest}, "outputs": [{"name", "shape", "datatype", "data"}]}

``data`` is row-major, flat or nested as ``shape``. Errors give the JSON path. Source: kserve/open-inference-protocol, inference_rest.md.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np

from isoform.runtime.errors import InputError
from isoform.runtime.mixture import softmax
from isoform.runtime.spec import Array, NetworkSpec

__all__ = ["InferRequest", "decode_request", "encode_response", "metadata"]

INPUT = "image"
OUTPUTS = ("logits", "probabilities", "label")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferRequest:
    """One request, checked."""

    samples: Array
    """Shape (n, channels, height, width), float32."""
    outputs: tuple[str, ...]
    """Which outputs are wanted, in that order."""
    id: str | None
    """To be echoed."""


def metadata(task: str, spec: NetworkSpec, labels: tuple[str, ...], digest: str) -> dict[str, Any]:
    """What a task takes and gives, as the protocol's model metadata."""
    classes = len(labels)
    return {
        "name": task, "versions": ["1"], "platform": "isoform_onnxv1",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *spec.input_shape]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, classes]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
        "parameters": {"signature": digest, "labels": json.dumps(list(labels), ensure_ascii=False)},
    }  # fmt: skip


def decode_request(body: bytes, *, shape: tuple[int, int, int]) -> InferRequest:
    """Read a request's body.

    Args:
        body: JSON as above.
        shape: Channels, height, width of one sample.

    Raises:
        InputError: With the JSON path of what is wrong.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError("$: the body is not JSON; send an object with 'inputs'") from None
    if not isinstance(content, dict):
        raise InputError(f"$: an object was expected, but a {_kind(content)} came")
    identity = content.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError(f"$.id: a text was expected, but a {_kind(identity)} came")
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InputError(
            f"$.inputs: a list of one object was expected, but {_kind(inputs)}{f' of {len(inputs)}' if isinstance(inputs, list) else ''} came"
        )
    return InferRequest(samples=_samples(inputs[0], shape), outputs=_outputs(content.get("outputs")), id=identity)


def _samples(tensor: dict[str, Any], shape: tuple[int, int, int]) -> Array:
    if tensor.get("name") != INPUT:
        raise InputError(f"$.inputs[0].name: {INPUT!r} was expected, but {tensor.get('name')!r} came")
    if tensor.get("datatype") != "FP32":
        raise InputError(f"$.inputs[0].datatype: 'FP32' was expected, but {tensor.get('datatype')!r} came")
    declared = tensor.get("shape")
    if not isinstance(declared, list) or not all(type(v) is int and 0 <= v <= 1 << 31 for v in declared):
        raise InputError(
            f"$.inputs[0].shape: a list of whole numbers was expected, but {json.dumps(declared)[:80]} came"
        )
    if len(declared) != 4 or tuple(declared[1:]) != shape:
        raise InputError(f"$.inputs[0].shape: [n, {', '.join(map(str, shape))}] was expected, but {declared} came")
    data = tensor.get("data")
    if not isinstance(data, list):
        raise InputError(f"$.inputs[0].data: a list of numbers was expected, but a {_kind(data)} came")
    try:
        array = np.array(data)
    except (ValueError, OverflowError):
        raise InputError(
            "$.inputs[0].data: the lists are ragged; a flat list, or lists nested as $.inputs[0].shape, were expected"
        ) from None
    size = math.prod(declared)
    if array.size == 0 and size == 0:
        array = np.zeros(declared, dtype=np.float32)
    if array.dtype.kind not in "fiu":
        raise InputError("$.inputs[0].data: numbers were expected, but something else is among them")
    if list(array.shape) not in ([size], declared):
        raise InputError(
            f"$.inputs[0].data: {size} numbers or lists of shape {declared} were expected, but shape {list(array.shape)} came"
        )
    with np.errstate(over="ignore"):
        return array.reshape(declared).astype(np.float32)


def _outputs(wanted: object) -> tuple[str, ...]:
    if wanted is None:
        return OUTPUTS
    if not isinstance(wanted, list) or not wanted:
        raise InputError(f"$.outputs: a list of objects was expected, but a {_kind(wanted)} came")
    names = []
    for index, entry in enumerate(wanted):
        name = entry.get("name") if isinstance(entry, dict) else None
        if name not in OUTPUTS or name in names:
            raise InputError(
                f"$.outputs[{index}].name: one of {', '.join(OUTPUTS)}, each once, was expected, but {name!r} came"
            )
        names.append(str(name))
    return tuple(names)


def encode_response(
    asked: InferRequest, task: str, logits: Array, labels: tuple[str, ...], digest: str
) -> dict[str, Any]:
    """The answer to a request.

    Args:
        asked: The request.
        task: The model's name.
        logits: Shape (n, classes), float32.
        labels: Names of the classes.
        digest: Digest of the signature that made the logits.
    """
    outputs = []
    for name in asked.outputs:
        if name == "label":
            data: list[Any] = [labels[i] for i in logits.argmax(axis=1)]
            outputs.append({"name": name, "datatype": "BYTES", "shape": [len(logits)], "data": data})
        else:
            values = logits if name == "logits" else softmax(logits).astype(np.float32) if len(logits) else logits
            outputs.append(
                {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": values.ravel().tolist()}
            )
    answer: dict[str, Any] = {"model_name": task, "model_version": "1"}
    if asked.id is not None:
        answer["id"] = asked.id
    return {**answer, "parameters": {"signature": digest}, "outputs": outputs}


def _kind(value: object) -> str:
    names = {
        dict: "object",
        list: "list",
        str: "text",
        bool: "boolean",
        int: "number",
        float: "number",
        type(None): "null",
    }
    return names[type(value)]
