"""The model repository extension: which tasks there are, and whether they answer.

Templates and base signatures belong to the bundle that the server was started with; users' signatures have routes of their own
(``signatures.py``). So load and unload only say whether a task answers, and a load that brings files is refused.
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
"""Longest body of a request that brings no samples."""
blueprint = Blueprint("repository", __name__, url_prefix="/v2/repository")


@blueprint.post("/index")
def index() -> Response:
    """Every task, its version and its state. Raises ``InputError`` for a body that makes no sense."""
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
    """Let a task answer. Raises ``InputError`` if files or a configuration come with it."""
    require_admin()
    check_members(wanted := read_object(), ("parameters",))
    if isinstance(wanted.get("parameters"), dict) and wanted["parameters"]:
        raise InputError(
            f"$.parameters: none were expected; a user's signature is put to /v1/models/{task}/signatures/NAME"
        )
    parameters_of(wanted, "$", ())
    get_service().tasks.set_loaded(task, loaded=True, actor=actor())
    return {}


@blueprint.post("/models/<task>/unload")
def unload(task: str) -> dict[str, Any]:
    """Let a task answer no more, until it is loaded again. Raises ``InputError`` for parameters that would be ignored."""
    require_admin()
    check_members(wanted := read_object(), ("parameters",))
    parameters_of(wanted, "$", ("unload_dependents",))  # nothing depends on a task
    get_service().tasks.set_loaded(task, loaded=False, actor=actor())
    return {}


def read_object() -> dict[str, Any]:
    """This request's body, a JSON object; an empty one if there is none.

    Raises:
        InputError: If it is something else.
    """
    body = read_body(request.environ, limit=min(OBJECT_BYTES, get_service().settings.max_body_bytes))
    content = read_json(body) if body else {}
    if content is None:
        raise InputError("$: the body is not JSON; send an object, or nothing")
    return content
