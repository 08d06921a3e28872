"""Requests whose answers would take far more memory than they do themselves: small ones that become large, and large ones at once."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Mapping

import numpy as np

from isoform.runtime.formats import tensors
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature

__all__ = ["CLASSES", "JOBS", "LARGE_BYTES", "Ask", "asks", "flask_asks", "many_classes"]

HEAD = "Inference-Header-Content-Length"
INFER = "/v2/models/{task}/infer"
LEARN = "/v1/models/{task}/signatures/alice/{verb}"
LARGE_BYTES = 15_974_400
"""15.2 MiB: 3,900 samples of 32 × 32 FP32, a little less than a body may have."""
CLASSES = 2000
JOB_SAMPLES = 1000
"""So many of so many classes a job may have."""
JOBS = tuple(f"{verb}: {what}" for verb in ("personalize", "adapt") for what in ("as many as may", "one and spaces"))
"""Beginnings of the names of those that become jobs."""


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request."""

    path: str
    body: bytes
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    method: str = "POST"
    who: str = "writer"
    """Whose key: ``writer``, ``metrics`` (which may not predict) or ``nobody``."""


def many_classes(bundle: Bundle, task: str) -> Signature:
    """A signature whose network has thousands of classes."""
    base, rng = bundle.base(task), np.random.default_rng(0)
    weight = rng.normal(size=(CLASSES, bundle.spec.embedding)).astype(np.float16)
    parts = {"logits.weight": weight, "logits.bias": np.zeros(CLASSES, dtype=np.float16)}
    return base.replace(parts=parts, base=base.digest, labels=tuple(f"class {i}" for i in range(CLASSES)))


def _binary(
    samples: int, shape: tuple[int, ...], *, content: bool = False, **more: object
) -> tuple[bytes, dict[str, str]]:
    data = bytes(4 * samples * int(np.prod(shape)))
    if content:  # zeros are no images, and nothing would be learned from them
        data = np.random.default_rng(0).random((samples, *shape), dtype=np.float32).tobytes()
    image = {
        "name": "image",
        "datatype": "FP32",
        "shape": [samples, *shape],
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [image], **more}).encode()
    return head + data, {HEAD: str(len(head))}


def _json(data: str, samples: int, shape: tuple[int, ...], **more: object) -> bytes:
    image = {"name": "image", "datatype": "FP32", "shape": [samples, *shape], "data": 0}
    return json.dumps({"inputs": [image], **more}).replace('"data": 0', f'"data": {data}').encode()


def _labelled(samples: int, shape: tuple[int, ...], labels: tuple[str, ...]) -> tuple[bytes, dict[str, str]]:
    """Samples to learn from, with content, and a few labels in turn."""
    whole, headers = _binary(samples, shape, content=True)
    head, data = json.loads(whole[: int(headers[HEAD])]), whole[int(headers[HEAD]) :]
    named = [labels[i % len(labels)] for i in range(samples)]
    head["inputs"].append({"name": "label", "datatype": "BYTES", "shape": [samples], "data": named})
    text = json.dumps(head).encode()
    return text + data, {HEAD: str(len(text))}


def _padded(body: bytes, headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """The same, but with spaces in its JSON until it is as long as a body may be."""
    end, more = int(headers[HEAD]) - 1, LARGE_BYTES - len(body)
    return body[:end] + b" " * more + body[end:], {HEAD: str(end + 1 + more)}


def _packed(body: bytes, headers: Mapping[str, str] | None = None) -> tuple[bytes, dict[str, str]]:
    return gzip.compress(body), {"Content-Encoding": "gzip", **(headers or {})}


def asks(bundle: Bundle, task: str) -> dict[str, Ask]:
    """Kind → request, to our server. ``alice`` is a user whose network has many classes."""
    shape = bundle.spec.input_shape
    numbers, infer = int(np.prod(shape)), INFER.format(task=task)
    count = LARGE_BYTES // (4 * numbers)
    large, few = _binary(count, shape), _binary(1000, shape, parameters={"signature": "alice"})
    text = _json('["' + "x" * 200_000 + '"' + ",0" * (numbers - 1) + "]", 1, shape)
    lists, dicts, ones = (
        "[" + ",".join([part] * (LARGE_BYTES // (len(part) + 1))) + "]" for part in ("[]", '{"a":1}', "0.5")
    )
    names = ("class 0", "class 1")
    personalize, adapt = (LEARN.format(task=task, verb=verb) for verb in ("personalize", "adapt"))
    header = json.dumps({"__metadata__": {"labels": "x"}, **{f"t{i}": [] for i in range(300_000)}}).encode()
    found = {
        "3,900 samples": Ask(infer, *large),
        "3,900 samples, gzip": Ask(infer, *_packed(*large)),
        "3,900 samples, nobody": Ask(infer, *large, who="nobody"),
        "text among numbers, gzip": Ask(infer, *_packed(text)),
        "text among numbers, metrics key": Ask(infer, *_packed(text), who="metrics"),
        "samples × classes, gzip": Ask(infer, *_packed(*few)),
        "JSON of numbers": Ask(infer, _json(ones, len(ones) // (4 * numbers), shape)),
        "JSON of lists, gzip": Ask(infer, *_packed(_json(lists, 1, shape))),
        "JSON of objects, gzip": Ask(infer, *_packed(_json(dicts, 1, shape))),
        "an id of 15 MB, gzip": Ask(infer, *_packed(_json("[]", 0, shape, id="x" * LARGE_BYTES))),
        "a shape of 2³¹ samples": Ask(infer, _json("[]", 1 << 31, shape)),
        "deep nesting": Ask(infer, _json("[" * 500_000, 1, shape)),
        "a bomb, gzip": Ask(infer, *_packed(bytes(1 << 26))),
        "signature: 300,000 names": Ask(f"/v1/models/{task}/signatures/alice", len(header).to_bytes(8, "little") + header, method="PUT"),
        "signature: bomb, gzip": Ask(f"/v1/models/{task}/signatures/alice", *_packed(bytes(LARGE_BYTES)), method="PUT"),
        "signature: many classes": Ask(f"/v1/models/{task}/signatures/alice", many_classes(bundle, task).encode(), method="PUT"),
        "rollback of 15 MB, gzip": Ask(f"/v1/models/{task}/signatures/alice/rollback", *_packed(_json(ones, 1, shape))),
        "personalize: samples × classes": Ask(personalize, *_labelled(count, shape, names)),
        "adapt: samples × classes, gzip": Ask(adapt, *_packed(*_binary(count, shape, content=True))),
        "personalize: as many as may": Ask(personalize, *_labelled(JOB_SAMPLES, shape, names)),
        "adapt: as many as may, gzip": Ask(adapt, *_packed(*_binary(JOB_SAMPLES, shape, content=True))),
        "personalize: one and spaces, gzip": Ask(personalize, *_packed(*_padded(*_labelled(2, shape, names)))),
        "adapt: one and spaces, gzip": Ask(adapt, *_packed(*_padded(*_binary(1, shape, content=True)))),
    }  # fmt: skip
    assert len(header) > tensors.HEADER_LIMIT
    return found


def flask_asks(bundle: Bundle) -> dict[str, Ask]:
    """Those of them that Flask and ONNX Runtime alone can be sent: it knows neither gzip nor users."""
    numbers = int(np.prod(bundle.spec.input_shape))
    data = bytes(LARGE_BYTES // (4 * numbers) * 4 * numbers)
    text = json.dumps({"image": ["x" * 20_000, *[0] * (numbers - 1)]}).encode()
    lists = b'{"image":[' + b"[]," * (LARGE_BYTES // 3) + b"[]]}"
    as_json = {"Content-Type": "application/json"}
    return {
        "3,900 samples": Ask("/predict", data, {"Content-Type": "application/octet-stream"}),
        "text among numbers": Ask("/predict", text, as_json),
        "JSON of lists": Ask("/predict", lists, as_json),
    }
