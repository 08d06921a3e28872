"""The same samples as every server wants them, and the logits out of its answers.

    json     numbers as text, with as few digits as give the same FP32
    binary   numbers as they are in memory: ours by the protocol's binary extension, LitServe and Flask alone as the body itself
    base64   MLServer has no binary numbers over REST: bytes as text in its JSON
    grpc     MLServer's numbers as bytes, in raw_input_contents

All of them are asked for logits and nothing else.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["Wire", "logits_in", "wire"]

MODEL = "base"
OCTETS = "application/octet-stream"
NUMBERS = "numbers"


@dataclasses.dataclass(frozen=True)
class Wire:
    """A request, but for the port."""

    protocol: str
    head: str
    """With ``{user}`` where a user's name belongs, if one does; empty for gRPC."""
    body: bytes


def wire(
    server: str, form: str, samples: Array, *, named: bool = False, task: str = MODEL, key: str | None = None
) -> Wire:
    """A request.

    Args:
        server: ``isoform``, ``litserve``, ``mlserver`` or ``flask``.
        form: As above.
        samples: Shape (n, channels, height, width), float32.
        named: Whether it says whose network is to run; ours only.
        task: Which network, of those that the server has.
        key: API key that it is sent with; ours only.
    """
    if form == "grpc":
        return Wire("grpc", "", _grpc_request(samples))
    data, fields = samples.astype("<f4").tobytes(), dict[str, str]()
    path, kind, binary = f"/v2/models/{task}/infer", "application/json", form == "binary"
    tensor: dict[str, Any] = {"name": "image", "datatype": "FP32", "shape": list(samples.shape)}
    if server == "isoform" and binary:
        tensor["parameters"] = {"binary_data_size": len(data)}
        head = _json(
            {"inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}, samples
        )
        kind, fields["Inference-Header-Content-Length"], body = OCTETS, str(len(head)), head + data
    elif server == "isoform":
        body = _json({"inputs": [{**tensor, "data": NUMBERS}], "outputs": [{"name": "logits"}]}, samples)
    elif server == "mlserver" and form == "base64":
        as_text = {"datatype": "BYTES", "shape": [1, 1], "parameters": {"content_type": "base64"}}
        body = _json({"inputs": [{**tensor, **as_text, "data": [base64.b64encode(data).decode()]}]}, samples)
    elif server == "mlserver":
        body = _json({"inputs": [{**tensor, "parameters": {"content_type": "np"}, "data": NUMBERS}]}, samples)
    else:
        path, kind = "/predict", OCTETS if binary else kind
        body = data if binary else _json({"image": NUMBERS}, samples)
    if named:
        fields["Isoform-Signature"] = "{user}"
    if key is not None:
        fields["Authorization"] = f"Bearer {key}"
    fields = {"Host": "127.0.0.1", "Content-Type": kind, "Content-Length": str(len(body)), **fields}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return Wire("http", f"POST {path} HTTP/1.1\r\n{lines}\r\n", body)


def logits_in(server: str, form: str, answer: bytes, head: str) -> Array:
    """The logits of an answer.

    Args:
        server: As in ``wire``.
        form: As in ``wire``.
        answer: Its body.
        head: Its HTTP header, in lower case; empty for gRPC.

    Returns:
        Shape (n · classes,), float32.
    """
    if form == "grpc":
        return np.frombuffer(_field(answer, 6), dtype="<f4")
    if server == "isoform" and form == "binary":
        size = int(head.split("inference-header-content-length:")[1].split("\r\n")[0])
        return np.frombuffer(answer[size:], dtype="<f4")
    if form == "binary":
        return np.frombuffer(answer, dtype="<f4")
    content = json.loads(answer)
    if server not in ("isoform", "mlserver"):
        return np.array(content["logits"], dtype=np.float32).ravel()
    (output,) = content["outputs"]
    if form == "base64":
        return np.frombuffer(base64.b64decode(output["data"][0]), dtype="<f4")
    return np.array(output["data"], dtype=np.float32)


def _json(content: dict[str, Any], samples: Array) -> bytes:
    """JSON, with the samples' numbers where ``NUMBERS`` stands."""
    numbers = ",".join(map(str, samples.ravel().astype(np.float32)))
    return json.dumps(content).replace(json.dumps(NUMBERS), f"[{numbers}]").encode()


def _grpc_request(samples: Array) -> bytes:
    """inference.ModelInferRequest: model_name = 1, inputs = 5 {name = 1, datatype = 2, shape = 3}, raw_input_contents = 7."""
    shape = b"".join(map(_varint, samples.shape))
    tensor = _bytes(1, b"image") + _bytes(2, b"FP32") + _bytes(3, shape)
    return _bytes(1, MODEL.encode()) + _bytes(5, tensor) + _bytes(7, samples.astype("<f4").tobytes())


def _bytes(number: int, value: bytes) -> bytes:
    """A field of protobuf that has a length."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))


def _field(message: bytes, wanted: int) -> bytes:
    """The first field of that number that has a length."""
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        key = number()
        if key & 7 == 0:
            number()
            continue
        if key & 7 != 2:
            raise ValueError(f"protobuf: a field of kind {key & 7} was not expected")
        size = number()
        if key >> 3 == wanted:
            return message[place : place + size]
        place += size
    raise ValueError(f"protobuf: there is no field {wanted}")
