"""Predictions: ``POST /v2/models/<task>/infer``, JSON or binary, by the network of whoever is named.

Who that is stands in the request's parameters (``{"signature": "alice"}``) or in the header ``Isoform-Signature``; the answer says whose
network it was, which revision, and its digest.
"""

from __future__ import annotations

import time

from flask import Blueprint, Response, request

from isoform.runtime.errors import InputError, UsageError
from isoform.server.access.guard import require_predict
from isoform.server.body import compressed, read_body
from isoform.server.problems import NotFoundError
from isoform.server.protocol.metadata import VERSION
from isoform.server.protocol.request import decode_request
from isoform.server.protocol.response import encode_response
from isoform.server.state import get_service

__all__ = ["JSON_BYTES", "SIGNATURE", "blueprint", "check_version", "json_bytes"]

blueprint = Blueprint("inference", __name__, url_prefix="/v2")

JSON_BYTES = "Inference-Header-Content-Length"
SIGNATURE = "Isoform-Signature"


@blueprint.post("/models/<task>/infer")
@blueprint.post("/models/<task>/versions/<version>/infer")
def infer(task: str, version: str = VERSION) -> Response:
    """Predict."""
    service = get_service()
    check_version(task, version)
    service.tasks.check(task)
    runtime = service.runtime
    began = time.perf_counter()
    body = read_body(request, limit=service.settings.max_body_bytes)
    asked = decode_request(body, shape=runtime.bundle.spec.input_shape, json_bytes=json_bytes())
    decoded = time.perf_counter()
    name = _named(asked.signature, request.headers.get(SIGNATURE))
    require_predict(name)
    whose = service.users.find(task, name)
    found = time.perf_counter()
    logits = runtime.predict(asked.samples, whose.signature)
    predicted = time.perf_counter()
    data, head = encode_response(asked, task, logits, runtime.labels(whose.signature), whose.parameters())
    stages = (decoded - began, predicted - found, time.perf_counter() - predicted)
    service.metrics.infer(task, len(logits), stages)
    response = Response(data, content_type="application/json" if head is None else "application/octet-stream")
    if head is not None:
        response.headers[JSON_BYTES] = str(head)
    return compressed(response, request) if "Accept-Encoding" in request.headers else response


def check_version(task: str, version: str) -> None:
    """Raise ``NotFoundError`` for any but the one version that there is."""
    if version != VERSION:
        raise NotFoundError(f"task {task!r} has no version {version!r}; there is {VERSION}")


def json_bytes() -> int | None:
    """How many bytes of this request's body are JSON; None if all are. Raises ``UsageError`` if the header makes no sense."""
    text = request.headers.get(JSON_BYTES)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise UsageError(f"{JSON_BYTES} is {text[:40]!r}, but a whole number of bytes was expected")
    return int(text)


def _named(parameter: str | None, header: str | None) -> str | None:
    if parameter is not None and header is not None and parameter != header:
        raise InputError(
            f"$.parameters.signature is {parameter[:64]!r}, but the header {SIGNATURE} says {header[:64]!r}; send one of them"
        )
    return parameter if parameter is not None else header
