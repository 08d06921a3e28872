"""What a client is told when it does not get what it asked for.

Errors of isoform become status codes; every body is ``{"error": text}``:

    InputError, SignatureError, UsageError   400      NotFoundError     404
    UnknownCallerError                       401      ForbiddenError    403
    ConflictError                            409      PreconditionError 412
    StoreError, BusyError                    503      anything else     500, and the text stays in the log
"""

from __future__ import annotations

import logging

from flask import Flask, Response, current_app, jsonify
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from isoform.runtime.errors import (
    ConflictError,
    InputError,
    IsoformError,
    SignatureError,
    StoreError,
    UsageError,
)

__all__ = [
    "BusyError", "ForbiddenError", "NotFoundError", "PreconditionError", "UnknownCallerError", "answer_with_json",
]  # fmt: skip

log = logging.getLogger("isoform.server")

LONGEST = 1000
"""Characters of an error: what a client sent wrong is quoted to it, but not all of a long thing."""


class NotFoundError(IsoformError):
    """There is nothing of that name."""


class BusyError(IsoformError):
    """There is too much to do already: try again later."""


class UnknownCallerError(IsoformError):
    """Nobody knows whose request that is."""


class ForbiddenError(IsoformError):
    """It is known whose request that is, and that it may not."""


class PreconditionError(IsoformError):
    """``If-Match`` or ``If-None-Match`` says that this should not be done now."""


STATUS: dict[type[IsoformError], int] = {
    InputError: 400, SignatureError: 400, UsageError: 400, NotFoundError: 404, ConflictError: 409, PreconditionError: 412,
    StoreError: 503, BusyError: 503, UnknownCallerError: 401, ForbiddenError: 403,
}  # fmt: skip


def answer_with_json(app: Flask) -> None:
    """Let every error of an application be JSON."""
    app.register_error_handler(IsoformError, _our_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unforeseen_error)


def _our_error(problem: IsoformError) -> tuple[Response, int]:
    status = STATUS.get(type(problem), 500)
    text = str(problem)
    if status >= 500 and not isinstance(problem, BusyError):
        log.error("%s", problem)
        text = "an error inside the server; its log has the details"
        if status == 503:
            text = "the signature store does not answer; try again"
    _count(type(problem).__name__.removesuffix("Error"))
    text = " ".join(text.splitlines())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 200]} … {text[-190:]}"
    response = jsonify(error=text)
    if status == 503:
        response.headers["Retry-After"] = "1"
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response, status


def _http_error(problem: HTTPException) -> tuple[Response, int]:
    text = problem.description or problem.name
    if isinstance(problem, RequestEntityTooLarge):
        text = f"the body is longer than the {current_app.config['MAX_CONTENT_LENGTH']:,} bytes that this server reads; send fewer samples at a time"
    _count(problem.name.replace(" ", ""))
    response = jsonify(error=text)
    for name, value in problem.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response, problem.code or 500


def _unforeseen_error(problem: Exception) -> tuple[Response, int]:
    log.exception("a request failed", exc_info=problem)
    _count("Unforeseen")
    return jsonify(error="an error inside the server; its log has the details"), 500


def _count(reason: str) -> None:
    current_app.extensions["isoform"].metrics.error(reason)
