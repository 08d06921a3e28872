"""Health and metadata routes of the Open Inference Protocol."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from flask import Blueprint, Response, jsonify

from isoform.server.protocol.metadata import VERSION, metadata
from isoform.server.routes.inference import check_version
from isoform.server.service.service import get_service

__all__ = ["blueprint"]

blueprint = Blueprint("health", __name__, url_prefix="/v2")

EXTENSIONS = ["binary_tensor_data", "model_repository", "parameters", "statistics"]
SIGNATURES = "signatures"
"""Extension of a server that has a store for users' signatures; the page looks for it."""


@blueprint.get("/health/live")
def live() -> dict[str, bool]:
    """Liveness: 200 as long as the process answers."""
    return {"live": True}


@blueprint.get("/health/ready")
def ready() -> tuple[Response, int, dict[str, str]]:
    """Readiness: 200 if every task is loaded, the store answers and the server is not draining; else 503."""
    service = get_service()
    is_ready = not service.draining.begun and service.readiness.ask()
    return jsonify(ready=is_ready), 200 if is_ready else 503, {} if is_ready else {"Retry-After": "1"}


@blueprint.get("")
def server_metadata() -> dict[str, Any]:
    """Name, version and supported protocol extensions of the server."""
    extensions = sorted([*EXTENSIONS, SIGNATURES]) if get_service().users.keeps else EXTENSIONS
    return {"name": "isoform", "version": importlib.metadata.version("isoform"), "extensions": extensions}


@blueprint.get("/models/<task>/ready")
@blueprint.get("/models/<task>/versions/<version>/ready")
def model_ready(task: str, version: str = VERSION) -> dict[str, Any]:
    """Readiness of a task; 404 if it does not exist or is unloaded."""
    check_version(task, version)
    get_service().tasks.check(task)
    return {"name": task, "ready": True}


@blueprint.get("/models/<task>")
@blueprint.get("/models/<task>/versions/<version>")
def model_metadata(task: str, version: str = VERSION) -> dict[str, Any]:
    """Metadata of a task: names, datatypes and shapes of its inputs and outputs; 404 if it does not exist or is unloaded."""
    check_version(task, version)
    service = get_service()
    service.tasks.check(task)
    signature = service.runtime.signature(task)
    runtime = service.runtime
    return metadata(task, runtime.input_of(task), runtime.labels(signature), signature.digest, runtime.bundle.reading)
