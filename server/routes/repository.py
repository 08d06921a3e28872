"""The model repository extension: list tasks, load and unload them.

The bundle is fixed when the server starts, and users' signatures have their own routes (``signatures.py``). So load and unload only
switch whether a task answers, and a load request with files or a configuration is refused.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request

from isoform.runtime.errors import InputError
from isoform.server.access.guard import actor, require_admin
from isoform.server.exchange.body import read_body
from isoform.server.protocol.json_object import read_json
from isoform.server.protocol.metadata import VERSION
from isoform.server.protocol.parameters import check_members
from isoform.server.protocol.tensors import kind_of, parameters_of
from isoform.server.service.service import get_service

__all__ = ["blueprint", "read_object"]

OBJECT_BYTES = 64 << 10
"""Largest body of a request without samples."""
blueprint = Blueprint("repository", __name__, url_prefix="/v2/repository")


@blueprint.post("/index")
def index() -> Response:
    """List every task with its version and state. Raises ``InputError`` for a malformed body."""
    wanted = read_object()
    check_members(wanted, ("ready",))
    only_ready = wanted.get("ready", False)
    if not isinstance(only_ready, bool):
        raise InputError(f"$.ready: true or false was expected, but a {kind_of(only_ready)} came")
    service = get_service()
    unloaded = service.tasks.unloaded
    found = [
        {"name": task, "version": VERSION, "state": "UNAVAILABLE" if task in unloaded else "READY", "reason": "unloaded" if task in unloaded else ""}
        for task in service.runtime.tasks
        if not (only_ready and task in unloaded)
    ]  # fmt: skip
    return jsonify(found)


@blueprint.post("/models/<task>/load")
def load(task: str) -> dict[str, Any]:
    """Load a task, so that it answers again. Raises ``InputError`` for parameters: files and configurations are not supported."""
    require_admin()
    check_members(wanted := read_object(), ("parameters",))
    if isinstance(wanted.get("parameters"), dict) and wanted["parameters"]:
        raise InputError(
            f"$.parameters: none were expected; to upload a user's signature, PUT it to /v1/models/{task}/signatures/NAME"
        )
    parameters_of(wanted, "$", ())
    get_service().tasks.set_loaded(task, loaded=True, actor=actor())
    return {}


@blueprint.post("/models/<task>/unload")
def unload(task: str) -> dict[str, Any]:
    """Unload a task: it answers 404 until it is loaded again. Raises ``InputError`` for parameters that would be ignored."""
    require_admin()
    check_members(wanted := read_object(), ("parameters",))
    parameters_of(
        wanted, "$", ("unload_dependents",)
    )  # accepted, because Triton's clients send it; no task has dependents
    get_service().tasks.set_loaded(task, loaded=False, actor=actor())
    return {}


def read_object() -> dict[str, Any]:
    """The JSON object in this request's body; empty if there is no body.

    Raises:
        InputError: If the body is not a JSON object.
    """
    body = read_body(request.environ, limit=min(OBJECT_BYTES, get_service().settings.max_body_bytes))
    content = read_json(body) if body else {}
    if content is None:
        raise InputError("$: the body is not JSON; send a JSON object or an empty body")
    return content
