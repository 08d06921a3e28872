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

from isoform.runtime.arrays import Array, softmax
from isoform.server.protocol.metadata import VERSION
from isoform.server.protocol.request import InferRequest

__all__ = ["answer_bytes", "encode_response"]

NUMBER_BYTES = 24
"""Longest float32 as Python writes it, with its comma."""
PIECE = 1 << 14
"""Entries of a list that are written at a time."""
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
    entries, tail = list[bytes](), list[bytes]()
    for wanted in asked.outputs:
        about: dict[str, Any] = {"name": wanted.name}
        if wanted.name == "label":
            names = [labels[i] for i in logits.argmax(axis=1)]
            about |= {"datatype": "BYTES", "shape": [len(logits)]}
            data = b"".join(map(_binary_text, names)) if wanted.binary else _listed(names)
        else:
            values = logits if wanted.name == "logits" or len(logits) == 0 else softmax(logits).astype(np.float32)
            about |= {"datatype": "FP32", "shape": list(values.shape)}
            data = values.astype("<f4", copy=False).tobytes() if wanted.binary else _listed(values.ravel())
        if wanted.binary:
            about["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
            entries.append(_ENCODER.encode(about).encode())
        else:
            entries.append(b'%b,"data":[%b]}' % (_ENCODER.encode(about).encode()[:-1], data))
    answer: dict[str, Any] = {"model_name": task, "model_version": VERSION}
    if asked.id is not None:
        answer["id"] = asked.id
    about_network = _ENCODER.encode(answer | {"parameters": parameters}).encode()
    head = b'%b,"outputs":[%b]}' % (about_network[:-1], b",".join(entries))
    return b"".join((head, *tail)), len(head) if tail else None


def answer_bytes(asked: InferRequest, labels: tuple[str, ...]) -> int:
    """How long an answer, or the logits that it is made of, can get at most, in bytes."""
    count, size = len(asked.samples), 0
    for wanted in asked.outputs:
        if wanted.name == "label":
            size += count * (8 + max((len(_ENCODER.encode(label).encode()) for label in labels), default=0))
        else:
            size += count * len(labels) * (4 if wanted.binary else NUMBER_BYTES)
    return max(size, 4 * count * len(labels))


def _listed(values: Array | list[str]) -> bytes:
    """A JSON list's inside, written in pieces: as Python's numbers, a piece takes several times as much as its text."""
    pieces = (values[first : first + PIECE] for first in range(0, len(values), PIECE))
    texts = (_ENCODER.encode(piece if isinstance(piece, list) else piece.tolist()) for piece in pieces)
    return b",".join(text[1:-1].encode() for text in texts)


def _binary_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data
