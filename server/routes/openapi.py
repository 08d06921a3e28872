"""The OpenAPI 3.1 document of this server, served at ``/openapi.json``: every route with its parameters, bodies and answers.

It is written by hand. Tests check that it is valid and lists exactly the routes that exist, and schemathesis checks that answers match it.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from typing import Any

from flask import Blueprint

from isoform.runtime.adapt.registry import METHODS
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.inputs import AXES, Input
from isoform.server.exchange.query import LAST, PAGE_LIMIT
from isoform.server.page.routes import FILES
from isoform.server.protocol.metadata import LABEL, OUTPUTS, VERSION, datatype_of
from isoform.server.protocol.request import ID_CHARACTERS
from isoform.server.service.service import get_service

__all__ = ["blueprint", "document"]

blueprint = Blueprint("openapi", __name__)

Schema = dict[str, Any]

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
MAYBE_TEXT: Schema = {"type": ["string", "null"]}
NO_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    # No value is valid: the server refuses the header.
    "schema": False,
    "description": "Not supported here: a retried request is executed again.",
}


@blueprint.get("/openapi.json")
def served() -> dict[str, Any]:
    """The OpenAPI document of this server."""
    runtime = get_service().runtime
    return document(runtime.bundle, runtime.tasks)


def document(bundle: Bundle, tasks: tuple[str, ...]) -> dict[str, Any]:
    """Build the OpenAPI document.

    Args:
        bundle: The bundle: gives the shapes of samples, and the parts that personalization may change.
        tasks: Names of the tasks.
    """
    parts = "|".join(map(re.escape, bundle.kind.moves))
    task, user = (
        _in_path("task", {"type": "string", "enum": list(tasks)}),
        _in_path("user", {"type": "string", "pattern": NAME}),
    )
    version, job = (
        _in_path("version", {"type": "string", "enum": [VERSION]}),
        _in_path("identity", {"type": "string", "pattern": "^[0-9a-f]{32}$"}),
    )
    signatures = "/v1/models/{task}/signatures"
    one = f"{signatures}/{{user}}"
    infer = _does(
        "Predict",
        _ref("InferAnswer"),
        body=_ref("InferRequest"),
        binary=True,
        more=[_header("Isoform-Signature", NAME)],
    )
    ready, about, stats = (
        _does(text, _ref(name))
        for text, name in (("Ready?", "Ready"), ("Metadata", "Model"), ("Statistics", "Statistics"))
    )
    number: Schema = {**WHOLE, "minimum": 1, "maximum": LAST}
    writes = [_header("If-Match"), _header("If-None-Match"), _header("Idempotency-Key", "^[ -~]{1,255}$")]
    learns = {
        "parts": {"type": "string", "pattern": f"^({parts})(,({parts})){{0,{len(bundle.kind.moves) - 1}}}$"},
        "method": {"type": "string", "enum": list(METHODS)},
    }
    folders = {name.rpartition("/")[0] for name in FILES} - {""}
    paths: dict[str, Any] = {
        "/v2/health/live": {"get": _does("Liveness", _object({"live": {"const": True}}), errors=(403,))},
        "/v2/health/ready": {
            "get": _does("Readiness", _ref("Readiness"), errors=(403,), also={503: _ref("Readiness")})
        },
        "/v2": {"get": _does("Name, version, extensions", _ref("Server"))},
        "/v2/models/stats": {"get": stats},
        "/v2/repository/index": {
            "post": _does(
                "List tasks and their state",
                {"type": "array", "items": _ref("Entry")},
                body=_ref("IndexRequest"),
                optional=True,
            )
        },
        "/metrics": {"get": _does("Metrics for Prometheus", None, media="text/plain")},
        "/openapi.json": {"get": _does("This document", {"type": "object"})},
        "/v1/jobs/{identity}": {
            "parameters": [job],
            "get": _does("State and progress of a job", _ref("Job")),
            "delete": _does("Cancel a job", _ref("Job")),
        },
        "/v1/events": {
            "get": _does("Audit log, newest first", _ref("Events"), query={"before": number, "limit": _page()}),
        },
        "/": {"get": _does("The page", None, media="text/html", empty=(304,), errors=(403, 429))},
        "/page/{name}": {"parameters": [_in_path("name", _files_in(""))], "get": _page_file()},
        "/page/{folder}/{name}": {
            "parameters": [
                _in_path("folder", {"type": "string", "enum": sorted(folders)}),
                _in_path("name", _files_in(*folders)),
            ],
            "get": _page_file(),
        },
        "/v1/models/{task}/templates": {
            "parameters": [task],
            "get": _does(
                "Template usage of each layer",
                _ref("Templates"),
                query={"signature": {"type": "string", "pattern": NAME}},
            ),
        },
        signatures: {
            "parameters": [task],
            "get": _does(
                "List users of a task",
                _ref("Users"),
                query={"after": {"type": "string", "pattern": NAME}, "limit": _page()},
            ),
        },
        one: {
            "parameters": [task, user],
            "get": _does(
                "Description of the newest revision", _ref("Revision"), more=[_header("If-None-Match")], empty=(304,)
            ),
            "put": _does(
                "Upload a signature file as a new revision",
                _ref("Revision"),
                file=True,
                more=writes,
                also={201: _ref("Revision")},
            ),
            "delete": _does("Delete every revision and cancel open jobs", None, more=[*writes[:2], NO_KEY], status=204),
        },
        f"{one}/file": {
            "parameters": [task, user],
            "get": _does(
                "Download a signature file",
                None,
                media="application/octet-stream",
                query={"revision": number},
                empty=(304,),
            ),
        },
        f"{one}/revisions": {
            "parameters": [task, user],
            "get": _does(
                "List revisions, newest first",
                _ref("History"),
                query={"before": number, "limit": _page()},
            ),
        },
        f"{one}/rollback": {
            "parameters": [task, user],
            "post": _does("Roll back to an earlier revision", _ref("Revision"), body=_ref("Rollback"), more=writes),
        },
        f"{one}/jobs": {
            "parameters": [task, user],
            "get": _does("List a user's jobs", _object({"jobs": {"type": "array", "items": _ref("Job")}})),
        },
    }
    for verb, body in (("personalize", "LabelledSamples"), ("adapt", "Samples")):
        query: Schema = {"parts": learns["parts"]} if verb == "personalize" else {"method": learns["method"]}
        does = _does(f"{verb.capitalize()} a signature, as a job", _ref("Job"), body=_ref(body), binary=True, query=query, also={202: _ref("Job")},
                     more=[*writes[:2], _header("Prefer"), NO_KEY])  # fmt: skip
        paths[f"{one}/{verb}"] = {"parameters": [task, user], "post": does}
    for place, parameters in (("/v2/models/{task}", [task]), ("/v2/models/{task}/versions/{version}", [task, version])):
        for rest, does in (
            ("", {"get": about}),
            ("/ready", {"get": ready}),
            ("/stats", {"get": stats}),
            ("/infer", {"post": infer}),
        ):
            paths[place + rest] = {"parameters": parameters, **does}
    for verb in ("load", "unload"):
        does = _does(
            f"{verb.capitalize()} a task",
            {"type": "object"},
            body=_closed({"parameters": {"type": "object"}}),
            optional=True,
        )
        paths[f"/v2/repository/models/{{task}}/{verb}"] = {"parameters": [task], "post": does}
    return {
        "openapi": "3.1.0",
        "info": {"title": "isoform", "version": importlib.metadata.version("isoform"), "description": "Predictions with per-user signatures."},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": _schemas(bundle), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        # {}: or without a key, as with --open.
        "security": [{"key": []}, {}],
    }  # fmt: skip


def _samples(takes: Input) -> Schema:
    """The schema of a tensor of samples."""
    lengths: list[Schema] = [
        {**WHOLE, "minimum": takes.shortest, "maximum": takes.longest} if size is None else {"const": size}
        for size in takes.shape
    ]
    shape = {
        "type": "array", "prefixItems": [{**WHOLE, "minimum": 0}, *lengths], "minItems": 1 + len(lengths), "maxItems": 1 + len(lengths),
    }  # fmt: skip
    tensor: Schema = {
        "name": {"const": takes.name},
        "datatype": {"const": datatype_of(takes)},
        "shape": shape,
        "data": {"type": "array"},
        "parameters": _closed({"binary_data_size": WHOLE}),
    }
    return _closed(tensor, required=("name", "datatype", "shape"))


def _schemas(bundle: Bundle) -> dict[str, Schema]:
    inputs = [_samples(takes) for takes in dict.fromkeys(map(bundle.spec.input_of, bundle.signatures))]
    image: Schema = inputs[0] if len(inputs) == 1 else {"anyOf": inputs}
    said = ("name", "datatype", "shape")
    label = _closed({"name": {"const": LABEL}, "datatype": {"enum": ["BYTES", "INT64"]}, "shape": {"type": "array"}, "data": {"type": "array"},
                     "parameters": _closed({"binary_data_size": WHOLE})}, required=said)  # fmt: skip
    asked = {
        "signature": {"type": "string", "pattern": NAME},
        "timeout": {"type": "number", "exclusiveMinimum": 0},
        "binary_data_output": {"type": "boolean"},
    }
    flag = _closed({"binary_data": {"type": "boolean"}})
    identity: Schema = {"type": "string", "maxLength": ID_CHARACTERS}
    ignored = _closed({"binary_data_output": {}})
    # In either order: inputs are matched by name.
    both: Schema = {"oneOf": [_list_of(image, label), _list_of(label, image)]}
    wanted = _closed(
        {
            "name": {"enum": list(OUTPUTS)},
            "datatype": {"enum": sorted(set(OUTPUTS.values()))},
            "shape": {"type": "array"},
            "parameters": flag,
        },
        required=("name",),
    )
    revision = {
        "task": TEXT, "signature": TEXT, "revision": WHOLE, "digest": TEXT, "parent": MAYBE_TEXT, "action": TEXT, "actor": TEXT,
        "created": TEXT, "kept": {"type": "boolean"},
    }  # fmt: skip
    as_json: Schema = {"type": "string", "contentMediaType": "application/json"}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    layers: Schema = {"type": "array", "items": {"type": "array", "items": share}}
    described: dict[str, Schema] = {
        "id": TEXT, "task": TEXT, "signature": TEXT, "action": {"enum": ["personalize", "adapt"]}, "actor": TEXT,
        "state": {"enum": ["queued", "running", "done", "failed", "cancelled", "lost"]}, "step": WHOLE, "steps": WHOLE,
        "revision": {"type": ["integer", "null"]}, "message": MAYBE_TEXT, "created": TEXT, "updated": TEXT,
    }  # fmt: skip
    return {
        "Error": _object({"error": TEXT}),
        "Ready": _object({"name": TEXT, "ready": {"const": True}}),
        "Readiness": _object({"ready": {"type": "boolean"}}),
        "Server": _object({"name": TEXT, "version": TEXT, "extensions": {"type": "array", "items": TEXT}}),
        "Model": _object({"name": TEXT, "versions": {"type": "array"}, "platform": TEXT, "inputs": {"type": "array"}, "outputs": {"type": "array"},
                          "parameters": _object({"digest": TEXT, "what": {"enum": list(AXES)}, "labels": as_json, "reading": as_json})}),
        "Statistics": _object({"model_stats": {"type": "array", "items": {"type": "object"}}}),
        "Entry": _object({"name": TEXT, "version": TEXT, "state": {"enum": ["READY", "UNAVAILABLE"]}, "reason": TEXT}),
        "IndexRequest": _closed({"ready": {"type": "boolean"}}),
        "InferRequest": _closed({"id": identity, "parameters": _closed(asked), "inputs": _list_of(image), "outputs": {"type": "array", "items": wanted},
                                 "model_name": TEXT, "model_version": TEXT}, required=("inputs",)),
        "InferAnswer": _object({"model_name": TEXT, "model_version": TEXT, "id": TEXT, "parameters": {"type": "object"}, "outputs": {"type": "array"}},
                               optional=("id",)),
        "Samples": _closed({"id": identity, "inputs": _list_of(image), "parameters": ignored}, required=("inputs",)),
        "LabelledSamples": _closed({"id": identity, "inputs": both, "parameters": ignored}, required=("inputs",)),
        "Revision": _object(revision),
        "Users": _object({"signatures": {"type": "array", "items": _ref("Revision")}, "next": MAYBE_TEXT}),
        "History": _object({"revisions": {"type": "array", "items": _ref("Revision")}, "next": {"type": ["integer", "null"]}}),
        "Events": _object({"events": {"type": "array", "items": _ref("Event")}, "next": {"type": ["integer", "null"]}}),
        "Event": _object({"id": WHOLE, "created": TEXT, "actor": TEXT, "action": TEXT, "task": MAYBE_TEXT, "signature": MAYBE_TEXT,
                          "revision": {"type": ["integer", "null"]}}),
        "Rollback": _closed({"revision": {**WHOLE, "minimum": 1, "maximum": LAST}}, required=("revision",)),
        "Job": _object(described),
        "Templates": _object({"model_name": TEXT, "signature": TEXT, "revision": WHOLE, "digest": TEXT, "labels": {"type": "array", "items": TEXT},
                              "templates": WHOLE, "layers": layers, "base": _object({"digest": TEXT, "layers": layers})},
                             optional=("signature", "revision")),
    }  # fmt: skip


def _does(
    summary: str, answer: Schema | None, *, body: Schema | None = None, optional: bool = False, binary: bool = False, file: bool = False,
    media: str = "application/json", query: Mapping[str, Any] | None = None, more: list[Schema] | None = None, status: int = 200,
    also: dict[int, Schema] | None = None, empty: tuple[int, ...] = (), errors: tuple[int, ...] = (400, 401, 403, 404, 408, 409, 412, 413, 415, 429, 503),
) -> Schema:  # fmt: skip
    """An operation object: summary, parameters, request body and responses."""
    answers: dict[str, Any] = {
        str(status): {
            "description": summary,
            **({"content": {media: {"schema": answer} if answer else {}}} if status != 204 else {}),
        }
    }
    if binary and answer is not None:
        answers[str(status)]["content"]["application/octet-stream"] = {}
    for code, schema in (also or {}).items():
        answers[str(code)] = {"description": summary, "content": {"application/json": {"schema": schema}}}
    for code in empty:
        answers[str(code)] = {"description": "Not modified"}
    for code in errors:
        answers.setdefault(
            str(code), {"description": "Refused", "content": {"application/json": {"schema": _ref("Error")}}}
        )
    found: Schema = {"summary": summary, "responses": answers}
    parameters = [{"name": name, "in": "query", "schema": schema} for name, schema in (query or {}).items()] + (
        more or []
    )
    if parameters:
        found["parameters"] = parameters
    if body is not None:
        found["requestBody"] = {"required": not optional, "content": {"application/json": {"schema": body}}}
    if file:
        found["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    return found


def _object(properties: Mapping[str, Any], *, optional: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def _closed(properties: Mapping[str, Any], *, required: tuple[str, ...] = ()) -> Schema:
    """The schema of an object without other members: the server refuses unknown members."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _list_of(*entries: Schema) -> Schema:
    return {"type": "array", "prefixItems": list(entries), "minItems": len(entries), "maxItems": len(entries)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _in_path(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _header(name: str, pattern: str | None = None) -> Schema:
    return {"name": name, "in": "header", "schema": {"type": "string", **({"pattern": pattern} if pattern else {})}}


def _files_in(*folders: str) -> Schema:
    """The names of the page's files in some folders; an empty text is for those in none."""
    placed = [name.rpartition("/") for name in FILES]
    return {"type": "string", "enum": sorted(name for folder, _, name in placed if folder in folders)}


def _page_file() -> Schema:
    """The operation that serves a file of the page, of one of several media types."""
    does = _does("A file of the page", None, media="text/javascript", empty=(304,), errors=(403, 404, 429))
    does["responses"]["200"]["content"] |= {media: {} for media in set(FILES.values())}
    return does


def _page() -> Schema:
    return {**WHOLE, "minimum": 1, "maximum": PAGE_LIMIT}
