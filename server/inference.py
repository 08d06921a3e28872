"""Predictions: ``POST /v2/models/<task>/infer``."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from isoform.runtime.errors import UsageError
from isoform.server import protocol
from isoform.server.state import get_runtime, get_signature

__all__ = ["blueprint"]

blueprint = Blueprint("inference", __name__, url_prefix="/v2")


@blueprint.post("/models/<task>/infer")
def infer(task: str) -> dict[str, Any]:
    """Predict with a task's base signature; the answer names the signature's digest."""
    runtime = get_runtime()
    signature = get_signature(task)
    if "Inference-Header-Content-Length" in request.headers:
        raise UsageError(
            "the request has binary tensors, but this server reads JSON tensors; send the numbers in $.inputs[0].data"
        )
    asked = protocol.decode_request(request.get_data(cache=False), shape=runtime.bundle.spec.input_shape)
    logits = runtime.predict(asked.samples, signature)
    return protocol.encode_response(asked, task, logits, runtime.labels(signature), signature.digest)
