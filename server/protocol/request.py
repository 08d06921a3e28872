"""Decode a request's body: samples, parameters and requested outputs. Errors give the JSON path.

JSON:     {"id"?, "parameters"?: {"signature"?: name, "timeout"?: µs, "binary_data_output"?: bool},
           "inputs": [{"name": "image", "shape": [n, c, h, w], "datatype": "FP32", "data": [...]}],    (as the task's metadata says)
           "outputs"?: [{"name", "parameters"?: {"binary_data": bool}}]}
Binary:   Inference-Header-Content-Length gives the number of bytes of JSON at the start; an input with
          "parameters": {"binary_data_size": bytes} has no "data": its numbers follow the JSON, little-endian, row-major
Raw:      that header is 0: the body is the numbers of one sample, and the answer is binary

``data`` is row-major, flat or nested as ``shape``. Inputs are matched by name. Unknown members and parameters are refused
(``parameters.py``). ``model_name`` and ``model_version``, which some clients repeat from the path, must match it. Duplicate names in one
object are refused, because JSON parsers disagree on which one counts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Input
from isoform.server.protocol.bounds import Bounds
from isoform.server.protocol.json_object import read_json
from isoform.server.protocol.metadata import LABEL, OUTPUTS
from isoform.server.protocol.parameters import IN_EXAMPLES, IN_OUTPUT, IN_REQUEST, check_members
from isoform.server.protocol.tensors import (
    Tail,
    brief,
    declared_shape,
    kind_of,
    one_sample,
    parameters_of,
    read_labels,
    read_samples,
    samples_from_bytes,
)

__all__ = ["ID_CHARACTERS", "InferRequest", "Wanted", "check_shapes", "decode_examples", "decode_request"]

ID_CHARACTERS = 1 << 17
"""Longest ``id``, in characters; it is echoed in the answer."""

IN_TENSOR = ("name", "datatype", "shape", "data", "parameters")
IN_WANTED = ("name", "datatype", "shape", "parameters")
"""Members of a requested output. Some clients repeat datatype and shape from the metadata; they must match it."""
MEMBERS = ("id", "inputs", "outputs", "parameters", "model_name", "model_version")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One requested output."""

    name: str
    binary: bool
    """Whether its data follows the JSON as bytes."""
    shape: object = None
    """The shape given in the request, unchecked; None if absent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A decoded and checked request."""

    samples: Array
    """Samples, shape (n, …), in the dtype of the task's input."""
    outputs: tuple[Wanted, ...]
    """Requested outputs, in the order of the answer."""
    id: str | None = None
    """Id of the request, echoed in the answer."""
    signature: str | None = None
    """User whose signature to use; None for the task's base signature."""
    timeout_seconds: float | None = None
    """The request's own deadline, from its arrival; None for none."""
    model: tuple[object, object] = (None, None)
    """Name and version of the model in the body, unchecked; None where absent."""


def decode_request(
    body: bytes | bytearray, *, takes: Input, json_bytes: int | None = None, bounds: Bounds
) -> InferRequest:
    """Decode the body of a prediction request.

    Args:
        body: The body, in one of the three forms above.
        takes: Input of the task's networks.
        json_bytes: Value of the binary extension's header, the number of bytes that are JSON; None without that header.
        bounds: Memory limits, called before anything of a size is allocated.

    Raises:
        InputError: If the body is malformed; the message starts with the JSON path.
    """
    if json_bytes == 0:
        shape = one_sample(len(body), takes, "the body")
        # Without ``bounds``: it is one sample, and a view of the body, which is counted already.
        samples = samples_from_bytes(memoryview(body), takes, shape, "the body")
        return InferRequest(samples=samples, outputs=tuple(Wanted(name, True) for name in OUTPUTS))
    content, tail = _head(body, json_bytes, bounds)
    check_members(content, MEMBERS)
    parameters = parameters_of(content, "$", IN_REQUEST)
    ((path, tensor),) = _inputs(content, (takes.name,)).values()
    samples = read_samples(tensor, takes, tail, path, bounds)
    tail.check_empty()
    return InferRequest(
        samples=samples,
        outputs=_outputs(content.get("outputs"), binary=_flag(parameters, "binary_data_output", "$") or False),
        id=content.get("id"),
        signature=_signature(parameters),
        timeout_seconds=_timeout(parameters),
        model=(content.get("model_name"), content.get("model_version")),
    )


def check_shapes(asked: InferRequest, classes: int) -> None:
    """Raise ``InputError`` if a requested output's shape is neither the actual one nor the metadata's, ``[-1, classes]``."""
    for index, wanted in enumerate(asked.outputs):
        rest = [] if wanted.name == LABEL else [classes]
        own, came = [len(asked.samples), *rest], wanted.shape
        # By type: True == 1 and 1.0 == 1 in Python.
        if came is not None and not (came in (own, [-1, *rest]) and all(type(v) is int for v in came)):
            raise InputError(f"$.outputs[{index}].shape: {own} was expected, or none, but {brief(came)} came")


def decode_examples(
    body: bytes | bytearray, *, takes: Input, json_bytes: int | None = None, labelled: bool, bounds: Bounds
) -> tuple[Array, list[str] | list[int]]:  # fmt: skip
    """Decode a body with samples to learn from: the same form, with a second input ``label`` if they are labelled.

    Returns:
        Samples, shape (n, …), and their labels; an empty list if they are unlabelled.

    Raises:
        InputError: If the body is malformed; the message starts with the JSON path.
    """
    content, tail = _head(body, json_bytes, bounds)
    check_members(content, ("id", "inputs", "parameters"))
    parameters_of(content, "$", IN_EXAMPLES)
    labels: list[str] | list[int] = []
    inputs = _inputs(content, (takes.name, LABEL) if labelled else (takes.name,))
    path, tensor = inputs[takes.name]
    # Before the loop: labels may come first, and their number is checked against it.
    count = declared_shape(tensor, takes, path)[0]
    for name, (path, tensor) in inputs.items():  # in the request's order, in which their bytes follow the JSON
        if name == takes.name:
            samples = read_samples(tensor, takes, tail, path, bounds)
        else:
            labels = read_labels(tensor, tail, path, samples=count)
    tail.check_empty()
    return samples, labels


def _head(body: bytes | bytearray, json_bytes: int | None, bounds: Bounds) -> tuple[dict[str, Any], Tail]:
    """The JSON object of a body, and the bytes after it."""
    if json_bytes is not None and json_bytes > len(body):
        raise InputError(
            f"Inference-Header-Content-Length is {json_bytes} bytes of JSON, but the body has only {len(body)}"
        )
    # A view, because slicing the body would copy the samples.
    tail = Tail(memoryview(body)[len(body) if json_bytes is None else json_bytes :])
    text = body if json_bytes is None else body[:json_bytes]
    bounds.hold_json(len(body), text)
    content = read_json(text)
    if content is None:
        raise InputError("$: the body is not JSON; send an object with 'inputs'")
    identity = content.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError(f"$.id: a text was expected, but a {kind_of(identity)} came")
    if len(identity or "") > ID_CHARACTERS:
        raise InputError(f"$.id: at most {ID_CHARACTERS} characters were expected, but {len(identity or '')} came")
    try:
        (identity or "").encode()  # it is echoed, and the answer is UTF-8
    except UnicodeEncodeError:
        raise InputError("$.id: a lone surrogate cannot be encoded as UTF-8; send another id") from None
    return content, tail


def _inputs(content: dict[str, Any], names: tuple[str, ...]) -> dict[str, tuple[str, dict[str, Any]]]:
    """The inputs by name, which must be exactly ``names``: each with its JSON path, in the request's order."""
    inputs = content.get("inputs")
    if (
        not isinstance(inputs, list)
        or len(inputs) != len(names)
        or not all(isinstance(entry, dict) for entry in inputs)
    ):
        count = f" of {len(inputs)}" if isinstance(inputs, list) else ""
        wanted = "one object" if len(names) == 1 else f"{len(names)} objects"
        raise InputError(f"$.inputs: a list of {wanted} was expected, but {kind_of(inputs)}{count} came")
    found = dict[str, tuple[str, dict[str, Any]]]()
    for index, entry in enumerate(inputs):
        left = [name for name in names if name not in found]
        if entry.get("name") not in left:
            wanted = " or ".join(map(repr, left))
            raise InputError(f"$.inputs[{index}].name: {wanted} was expected, but {brief(entry.get('name'))} came")
        check_members(entry, IN_TENSOR, f"$.inputs[{index}]")
        found[entry["name"]] = f"$.inputs[{index}]", entry
    return found


def _flag(parameters: dict[str, Any], name: str, path: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{path}.parameters.{name}: true or false was expected, but a {kind_of(value)} came")
    return value


def _signature(parameters: dict[str, Any]) -> str | None:
    name = parameters.get("signature")
    if name is not None and not isinstance(name, str):
        raise InputError(f"$.parameters.signature: a text was expected, but a {kind_of(name)} came")
    return name


def _timeout(parameters: dict[str, Any]) -> float | None:
    value = parameters.get("timeout")
    if value is None or value == 0:  # some clients send 0 for no timeout
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e12:
        raise InputError(
            f"$.parameters.timeout: a positive number of microseconds was expected, but {brief(value)} came"
        )
    return value / 1e6


def _outputs(wanted: object, *, binary: bool) -> tuple[Wanted, ...]:
    # By the protocol, a request that names no outputs gets all of them.
    if wanted is None or wanted == []:
        return tuple(Wanted(name, binary) for name in OUTPUTS)
    if not isinstance(wanted, list):
        raise InputError(f"$.outputs: a list of objects was expected, but a {kind_of(wanted)} came")
    found = list[Wanted]()
    for index, entry in enumerate(wanted):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS or name in [other.name for other in found]:
            raise InputError(
                f"$.outputs[{index}].name: one of {', '.join(OUTPUTS)}, each once, was expected, but {brief(name)} came"
            )
        path = f"$.outputs[{index}]"
        check_members(entry, IN_WANTED, path)
        own = _flag(parameters_of(entry, path, IN_OUTPUT), "binary_data", path)
        kind = entry.get("datatype")
        if kind not in (None, OUTPUTS[name]):
            raise InputError(f"{path}.datatype: {OUTPUTS[name]!r} was expected, or none, but {brief(kind)} came")
        found.append(Wanted(name, binary if own is None else own, entry.get("shape")))
    return tuple(found)
