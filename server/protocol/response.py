"""Encode logits as the body of an answer: JSON, followed by the bytes of binary outputs if any were requested.

    {"model_name", "model_version", "id"?, "parameters": {"signature"?, "revision"?, "digest"}, "outputs": [{"name", "datatype", "shape",
     "data" or "parameters": {"binary_data_size": bytes}}]}

In binary form a text is its length, four bytes, and its UTF-8. Everything is little-endian.
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

# tolist() makes float64 of float32, whose text has up to 23 characters: -1.1754943508222875e-38.
NUMBER_BYTES = 24
"""Longest text of a float32 in JSON, with its comma."""
PIECE = 1 << 14
"""List entries encoded at a time."""
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode_response(
    asked: InferRequest, task: str, logits: Array, labels: tuple[str, ...], parameters: Mapping[str, object]
) -> tuple[bytes, int | None]:
    """Encode the answer to a request.

    Args:
        asked: The request.
        task: Name of the model.
        logits: Shape (n, classes), float32.
        labels: Names of the classes.
        parameters: ``signature``, ``revision`` and ``digest`` that answered.

    Returns:
        The body, and the number of bytes of it that are JSON; None if all are.
    """
    entries, tail = list[bytes](), list[bytes]()
    for wanted in asked.outputs:
        about: dict[str, Any] = {"name": wanted.name}
        if wanted.name == "label":
            names = [labels[i] for i in logits.argmax(axis=1)]
            about |= {"datatype": "BYTES", "shape": [len(logits)]}
            data = b"".join(map(_binary_text, names)) if wanted.binary else _listed(names)
        else:
            values = logits if wanted.name == "logits" else softmax(logits).astype(np.float32)
            about |= {"datatype": "FP32", "shape": list(values.shape)}
            data = values.astype("<f4", copy=False).tobytes() if wanted.binary else _listed(values.ravel())
        if wanted.binary:
            about["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
            entries.append(_ENCODER.encode(about).encode())
        else:
            # ``data`` is spliced in as bytes: encoding it with the object would need all its numbers as Python objects.
            entries.append(b'%b,"data":[%b]}' % (_ENCODER.encode(about).encode()[:-1], data))
    answer: dict[str, Any] = {"model_name": task, "model_version": VERSION}
    if asked.id is not None:
        answer["id"] = asked.id
    about_network = _ENCODER.encode(answer | {"parameters": parameters}).encode()
    head = b'%b,"outputs":[%b]}' % (about_network[:-1], b",".join(entries))
    return b"".join((head, *tail)), len(head) if tail else None


def answer_bytes(asked: InferRequest, labels: tuple[str, ...]) -> int:
    """Upper bound in bytes for the size of an answer and of its logits."""
    count, size = len(asked.samples), 0
    for wanted in asked.outputs:
        if wanted.name == "label":
            # 8 for what surrounds a text: a comma in JSON, the length in binary form.
            size += count * (8 + max((len(_ENCODER.encode(label).encode()) for label in labels), default=0))
        else:
            size += count * len(labels) * (4 if wanted.binary else NUMBER_BYTES)
    # The logits exist even if only labels are requested.
    return max(size, 4 * count * len(labels))


def _listed(values: Array | list[str]) -> bytes:
    """Encode a JSON list without its brackets, in pieces: Python's numbers take several times the memory of their text."""
    pieces = (values[first : first + PIECE] for first in range(0, len(values), PIECE))
    texts = (_ENCODER.encode(piece if isinstance(piece, list) else piece.tolist()) for piece in pieces)
    return b",".join(text[1:-1].encode() for text in texts)


def _binary_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data
