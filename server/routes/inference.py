"""Predictions: ``POST /v2/models/<task>/infer``, JSON or binary, with a user's signature or the task's base signature.

A request names the user in its parameters (``{"signature": "alice"}``) or in the header ``Isoform-Signature``. The answer gives the
signature, revision and digest that were used. Predictions are the hot path, so ``front.py`` calls this module without Flask.
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
    """The route, task and version in a request's path; None if the path is not a prediction's."""
    if not (path.endswith("/infer") and path.startswith("/v2/models/")):
        return None
    parts = path.split("/")
    if len(parts) == 5 and parts[3]:
        return ROUTES[0], parts[3], VERSION
    if len(parts) == 7 and parts[4] == "versions" and parts[3] and parts[5]:
        return ROUTES[1], parts[3], parts[5]
    return None


def check_head(service: Service, caller: Caller, environ: dict[str, Any], task: str, version: str) -> None:
    """Check everything that the head of a request tells, before its body is read.

    Args:
        service: The application's service.
        caller: The caller of the request.
        environ: The request's WSGI environment.
        task: Name of the task.
        version: Version of the task.

    Raises:
        IsoformError: Any of the errors listed in ``problems.py``.
        HTTPException: If the method is not POST, or the body is too large or has an unsupported encoding.
    """
    if environ["REQUEST_METHOD"] != "POST":
        raise MethodNotAllowed(["POST", "OPTIONS"])
    # The scope before the task: without the scope the answer is 403, whether or not the task exists.
    check_predict(caller, environ.get("HTTP_ISOFORM_SIGNATURE"))
    check_version(task, version)
    service.tasks.check(task)
    if environ.get("QUERY_STRING"):
        raise UsageError(
            f"a prediction takes no query, but {environ['QUERY_STRING'][:80]!r} was sent; put parameters into the body"
        )
    # Twice the body: as the server's buffer, and as what the parser reads.
    service.memory.check_room(2 * check_body(environ, limit=service.settings.max_body_bytes))


def infer(service: Service, record: Record, environ: dict[str, Any], task: str, version: str) -> Answer:
    """Answer a prediction, after ``check_head``.

    Args:
        service: The application's service.
        record: The request's record, with its caller and arrival time. The signature that answers is added to it.
        environ: The request's WSGI environment.
        task: Name of the task.
        version: Version of the task.

    Raises:
        IsoformError: Any of the errors listed in ``problems.py``.
        HTTPException: If the body is too large or has an unsupported encoding.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        share = stack.enter_context(service.memory.share())
        answer = _answer(service, record, environ, (task, version), share, began=began)
        if answer.sent is not None:
            stack.pop_all()  # the answer's ``sent`` releases the share instead, once the client has the answer
        return answer


def _answer(
    service: Service, record: Record, environ: dict[str, Any], model: tuple[str, str], share: Share, *, began: float
) -> Answer:
    """Decode, predict and encode. Memory for each stage is reserved in the share before it is allocated; the answer's until it is sent."""
    runtime, settings, (task, version) = service.runtime, service.settings, model
    body = read_body(environ, limit=settings.max_body_bytes, hold=share.hold)
    asked = decode_request(body, takes=runtime.input_of(task), json_bytes=json_bytes(environ), bounds=share)
    # Binary samples are a view that keeps the whole body alive; samples from JSON are a separate array.
    size_of_samples = max(len(body), asked.samples.nbytes)
    del body
    if asked.model[0] not in (None, task) or asked.model[1] not in (None, "", version):
        raise InputError("$.model_name and $.model_version: must match the path if given, but differ from it")
    decoded = time.perf_counter()
    name = _named(asked.signature, environ.get("HTTP_ISOFORM_SIGNATURE"))
    check_predict(record.caller, name)  # again: ``check_head`` saw only the header, and the body may name a user
    whose = service.users.find(task, name)
    record.task, record.signature, record.revision, record.digest = task, name, whose.revision, whose.signature.digest
    own, ours = asked.timeout_seconds or np.inf, settings.deadline_seconds or np.inf
    labels = runtime.labels(whose.signature)
    check_shapes(asked, len(labels))
    size = answer_bytes(asked, labels)
    if size > settings.max_answer_bytes:
        raise TooLargeError(
            f"the answer for {len(asked.samples):,} samples of {len(labels):,} classes may take {size:,} bytes, but the limit is "
            f"{settings.max_answer_bytes:,}; send fewer samples, or request fewer or binary outputs"
        )
    share.hold(size_of_samples + 4 * size)  # the logits, their encoding, and copies of it on the way to the socket
    found = time.perf_counter()
    try:
        logits = service.batching.predict(asked.samples, whose.signature, until=record.arrived + min(own, ours))
    except DeadlineError as problem:
        # 408 if the request's own deadline passed first; 503 if the server's did, which means overload and is worth a retry.
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
    share.hold(2 * len(data))  # the answer, and a copy of it in the send buffer of a slow client
    return Answer(200, data, headers, share.release if share.held else None)


def check_version(task: str, version: str) -> None:
    """Raise ``NotFoundError`` for any version but ``VERSION``, the only one."""
    if version != VERSION:
        raise NotFoundError(f"task {task!r} has no version {version!r}; its only version is {VERSION}")


def json_bytes(environ: dict[str, Any]) -> int | None:
    """The number of bytes of a request's body that are JSON; None if all are. Raises ``UsageError`` if the header is invalid."""
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
