"""Predictions: ``POST /v2/models/<task>/infer``, JSON or binary, by the network of whoever is named.

Who that is stands in the request's parameters (``{"signature": "alice"}``) or in the header ``Isoform-Signature``; the answer says whose
network it was, which revision, and its digest. Most requests come here, so ``front.py`` calls it without Flask in between.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import numpy as np
from werkzeug.exceptions import MethodNotAllowed

from isoform.runtime.errors import InputError, UsageError
from isoform.server.access.guard import check_predict
from isoform.server.capacity.memory import Share
from isoform.server.exchange.answer import Answer
from isoform.server.exchange.body import check_body, compressed, read_body
from isoform.server.exchange.caller import Caller
from isoform.server.exchange.problems import BusyError, DeadlineError, NotFoundError, TooLargeError
from isoform.server.exchange.record import Record
from isoform.server.protocol.metadata import VERSION
from isoform.server.protocol.request import check_shapes, decode_request
from isoform.server.protocol.response import answer_bytes, encode_response
from isoform.server.service.service import Service

__all__ = ["JSON_BYTES", "ROUTES", "SIGNATURE", "check_head", "check_version", "infer", "json_bytes", "route_of"]

JSON_BYTES = "Inference-Header-Content-Length"
SIGNATURE = "Isoform-Signature"
ROUTES = ("/v2/models/<task>/infer", "/v2/models/<task>/versions/<version>/infer")


def route_of(path: str) -> tuple[str, str, str] | None:
    """The route, task and version that a request's path names; None if it is no prediction's."""
    if not (path.endswith("/infer") and path.startswith("/v2/models/")):
        return None
    parts = path.split("/")
    if len(parts) == 5 and parts[3]:
        return ROUTES[0], parts[3], VERSION
    if len(parts) == 7 and parts[4] == "versions" and parts[3] and parts[5]:
        return ROUTES[1], parts[3], parts[5]
    return None


def check_head(service: Service, caller: Caller, environ: dict[str, Any], task: str, version: str) -> None:
    """Check what can be known before a byte of the body is read.

    Args:
        service: The application's.
        caller: Who asks.
        environ: The request, as WSGI has it.
        task: The task.
        version: Of the task.

    Raises:
        IsoformError: Any of those that ``problems.py`` lists.
        HTTPException: If the method is not POST, or the body is too long or encoded strangely.
    """
    if environ["REQUEST_METHOD"] != "POST":
        raise MethodNotAllowed(["POST", "OPTIONS"])
    check_version(task, version)
    service.tasks.check(task)
    if environ.get("QUERY_STRING"):
        raise UsageError(
            f"a prediction has no query, but {environ['QUERY_STRING'][:80]!r} came; the body's parameters say what is wanted"
        )
    check_predict(caller, environ.get("HTTP_ISOFORM_SIGNATURE"))
    service.memory.check_room(2 * check_body(environ, limit=service.settings.max_body_bytes))


def infer(service: Service, record: Record, environ: dict[str, Any], task: str, version: str) -> Answer:
    """Predict, after ``check_head``.

    Args:
        service: The application's.
        record: What is known of the request: who asks, and when it came. Whose network answers is added.
        environ: The request, as WSGI has it.
        task: The task.
        version: Of the task.

    Raises:
        IsoformError: Any of those that ``problems.py`` lists.
        HTTPException: If the body is too long or encoded strangely.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        share = stack.enter_context(service.memory.share())
        answer = _answer(service, record, environ, (task, version), share, began=began)
        if answer.sent is not None:
            stack.pop_all()  # what it holds now is given back by that
        return answer


def _answer(
    service: Service, record: Record, environ: dict[str, Any], model: tuple[str, str], share: Share, *, began: float
) -> Answer:
    """Read, predict, write; what each takes is held by the share before it is made, and the answer until it is sent."""
    runtime, settings, (task, version) = service.runtime, service.settings, model
    body = read_body(environ, limit=settings.max_body_bytes, hold=share.hold)
    asked = decode_request(body, takes=runtime.input_of(task), json_bytes=json_bytes(environ), bounds=share)
    # Samples that were sent as bytes are a view of the body, and keep all of it; those of JSON are an array of their own.
    size_of_samples = max(len(body), asked.samples.nbytes)
    del body
    if asked.model[0] not in (None, task) or asked.model[1] not in (None, "", version):
        raise InputError("$.model_name and $.model_version: those of the path were expected, or none, but others came")
    decoded = time.perf_counter()
    name = _named(asked.signature, environ.get("HTTP_ISOFORM_SIGNATURE"))
    check_predict(record.caller, name)
    whose = service.users.find(task, name)
    record.task, record.signature, record.revision, record.digest = task, name, whose.revision, whose.signature.digest
    own, ours = asked.timeout_seconds or np.inf, settings.deadline_seconds or np.inf
    labels = runtime.labels(whose.signature)
    check_shapes(asked, len(labels))
    size = answer_bytes(asked, labels)
    if size > settings.max_answer_bytes:
        raise TooLargeError(
            f"the answer for {len(asked.samples):,} samples of {len(labels):,} classes takes up to {size:,} bytes, but at most "
            f"{settings.max_answer_bytes:,} are sent; send fewer samples, or ask for fewer outputs, or binary ones"
        )
    share.hold(size_of_samples + 4 * size)  # logits, what they become, and copies of it on the way to the socket
    found = time.perf_counter()
    try:
        logits = service.batching.predict(asked.samples, whose.signature, until=record.arrived + min(own, ours))
    except DeadlineError as problem:
        raise problem if own <= ours else BusyError(str(problem)) from None
    predicted = time.perf_counter()
    data, head = encode_response(asked, task, logits, labels, whose.parameters())
    if head is None:
        headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    else:
        headers = (("Content-Type", "application/octet-stream"), (JSON_BYTES, str(head)))
    if "HTTP_ACCEPT_ENCODING" in environ:
        data, more = compressed(data, environ["HTTP_ACCEPT_ENCODING"])
        headers += more
    stages = (
        began - record.arrived, decoded - began, found - decoded, predicted - found, time.perf_counter() - predicted
    )  # fmt: skip
    service.metrics.infer(task, len(logits), stages)
    del logits
    share.hold(2 * len(data))  # itself, and a copy of what the client has not taken yet
    return Answer(200, data, headers, share.release if share.held else None)


def check_version(task: str, version: str) -> None:
    """Raise ``NotFoundError`` for any but the one version that there is."""
    if version != VERSION:
        raise NotFoundError(f"task {task!r} has no version {version!r}; there is {VERSION}")


def json_bytes(environ: dict[str, Any]) -> int | None:
    """How many bytes of a WSGI request's body are JSON; None if all are. Raises ``UsageError`` if the header makes no sense."""
    text = environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH")
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
