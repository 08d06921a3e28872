"""Health and metadata routes of the Open Inference Protocol."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from flask import Blueprint

from isoform.server import protocol
from isoform.server.state import get_runtime, get_signature

__all__ = ["blueprint"]

blueprint = Blueprint("health", __name__, url_prefix="/v2")


@blueprint.get("/health/live")
def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@blueprint.get("/health/ready")
def ready() -> dict[str, bool]:
    """Every task can be asked: true from the first answer on, because the bundle is read and checked before that."""
    return {"ready": True}


@blueprint.get("")
def server_metadata() -> dict[str, Any]:
    """Name, version, and the protocol extensions that are really there."""
    return {"name": "isoform", "version": importlib.metadata.version("isoform"), "extensions": []}


@blueprint.get("/models/<task>/ready")
def model_ready(task: str) -> dict[str, Any]:
    """The task can be asked; 404 if there is none of that name."""
    get_signature(task)
    return {"name": task, "ready": True}


@blueprint.get("/models/<task>")
def model_metadata(task: str) -> dict[str, Any]:
    """What the task takes and gives; 404 if there is none of that name."""
    runtime = get_runtime()
    signature = get_signature(task)
    return protocol.metadata(task, runtime.bundle.spec, runtime.labels(signature), signature.digest)
