"""Logits → a body: JSON, or JSON and after it the numbers of those outputs that were wanted binary.

    {"model_name", "model_version", "id"?, "parameters": {"signature"?, "revision"?, "digest"}, "outputs": [{"name", "datatype", "shape",
     "data" or "parameters": {"binary_data_size": bytes}}]}

A binary text is its length, four bytes, and its UTF-8. All little-endian.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from isoform.runtime.mixture import softmax
from isoform.runtime.spec import Array
from isoform.server.protocol.metadata import VERSION
from isoform.server.protocol.request import InferRequest

__all__ = ["encode_response"]

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode_response(
    asked: InferRequest, task: str, logits: Array, labels: tuple[str, ...], parameters: Mapping[str, object]
) -> tuple[bytes, int | None]:
    """The answer to a request.

    Args:
        asked: The request.
        task: The model's name.
        logits: Shape (n, classes), float32.
        labels: Names of the classes.
        parameters: Whose network it was, and which.

    Returns:
        The body, and how many bytes of it are JSON where not all are.
    """
    outputs, tail = list[dict[str, Any]](), list[bytes]()
    for wanted in asked.outputs:
        entry: dict[str, Any] = {"name": wanted.name}
        if wanted.name == "label":
            names = [labels[i] for i in logits.argmax(axis=1)]
            entry |= {"datatype": "BYTES", "shape": [len(logits)]}
            data: Any = b"".join(map(_binary_text, names)) if wanted.binary else names
        else:
            values = logits if wanted.name == "logits" or len(logits) == 0 else softmax(logits).astype(np.float32)
            entry |= {"datatype": "FP32", "shape": list(values.shape)}
            data = values.astype("<f4", copy=False).tobytes() if wanted.binary else values.ravel().tolist()
        if wanted.binary:
            entry["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            entry["data"] = data
        outputs.append(entry)
    answer: dict[str, Any] = {"model_name": task, "model_version": VERSION}
    if asked.id is not None:
        answer["id"] = asked.id
    answer |= {"parameters": parameters, "outputs": outputs}
    head = _ENCODER.encode(answer).encode()
    return b"".join((head, *tail)), len(head) if tail else None


def _binary_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data
