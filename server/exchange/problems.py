"""Map errors to HTTP answers. Every body is ``{"error": text}``.

InputError, SignatureError, UsageError   400      NotFoundError     404
UnknownCallerError                       401      ForbiddenError    403
ConflictError                            409      PreconditionError 412
TooManyError                             429      DeadlineError     408
TooLargeError                            413      HeadTooLongError  431
StoreError, BusyError, MemoryError       503, and OSError where no file descriptor is left
anything else                            500; the text goes to the log only
"""

from __future__ import annotations

import errno
import logging
import math
import re

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from isoform.runtime.errors import (
    ConflictError,
    EngineError,
    InputError,
    IsoformError,
    SignatureError,
    StoreError,
    UsageError,
)
from isoform.server.exchange.answer import Answer
from isoform.server.exchange.record import get_record

__all__ = [
    "BusyError", "DeadlineError", "ForbiddenError", "HeadTooLongError", "NotFoundError", "PreconditionError", "TooLargeError",
    "TooManyError", "UnknownCallerError", "answer_with_json", "refusal",
]  # fmt: skip

log = logging.getLogger("isoform.server")

INSIDE = "internal server error; the server's log has the details"
_NO_MEMORY = re.compile(r"allocate memory|bad_alloc|bad allocation", re.IGNORECASE)
"""ONNX Runtime's messages when memory runs out."""
LONGEST = 1000
"""Longest error text, in characters: messages quote what the client sent, but only the start and end of a long value."""


class NotFoundError(IsoformError):
    """The requested resource does not exist."""


class BusyError(IsoformError):
    """The server is overloaded or shutting down; retry later."""


class TooLargeError(IsoformError):
    """The request or its answer exceeds a size limit."""


class HeadTooLongError(IsoformError):
    """The request has too many headers or too long a target."""


class DeadlineError(IsoformError):
    """The request's own deadline has passed."""


class TooManyError(IsoformError):
    """The caller exceeded a rate limit or quota.

    Args:
        text: The message.
        seconds: Seconds until a retry may succeed, for ``Retry-After``.
    """

    def __init__(self, text: str, *, seconds: float = 5.0) -> None:
        super().__init__(text)
        self.seconds = seconds


class UnknownCallerError(IsoformError):
    """The request has no valid key or token."""


class ForbiddenError(IsoformError):
    """The caller is known but lacks the scope."""


class PreconditionError(IsoformError):
    """The precondition ``If-Match`` or ``If-None-Match`` failed."""


STATUS: dict[type[IsoformError], int] = {
    InputError: 400, SignatureError: 400, UsageError: 400, NotFoundError: 404, ConflictError: 409, PreconditionError: 412,
    StoreError: 503, BusyError: 503, UnknownCallerError: 401, ForbiddenError: 403, TooManyError: 429, DeadlineError: 408,
    TooLargeError: 413, HeadTooLongError: 431,
}  # fmt: skip


def refusal(problem: Exception) -> tuple[Answer, str]:
    """The answer to a failed request, and the kind of error as a label for metrics."""
    # Out of memory or file descriptors means overload, so it is a 503 that clients retry and not a 500.
    if isinstance(problem, MemoryError) or (isinstance(problem, EngineError) and _NO_MEMORY.search(str(problem))):
        log.error("out of memory in a request: %s", str(problem) or type(problem).__name__)
        problem = BusyError("the server ran out of memory for this request; send fewer samples at a time, or try again")
    if isinstance(problem, OSError) and problem.errno in (errno.EMFILE, errno.ENFILE):
        log.error("out of file descriptors in a request: %s", problem)
        problem = BusyError("the server has too many open files and connections; try again")
    if isinstance(problem, HTTPException):
        # Of werkzeug's headers only Allow is kept: its Content-Type is for an HTML body.
        allow = tuple((name, value) for name, value in problem.get_headers() if name == "Allow")
        text = problem.description or problem.name
        return Answer.of_json({"error": text}, status=problem.code or 500, headers=allow), problem.name.replace(" ", "")
    if not isinstance(problem, IsoformError):
        log.error("a request failed", exc_info=problem)
        return Answer.of_json({"error": INSIDE}, status=500), "Unforeseen"
    # By exact type: an error that is not listed, like BundleError, is the server's own fault.
    status, text, headers = STATUS.get(type(problem), 500), str(problem), list[tuple[str, str]]()
    if status in (500, 503) and not isinstance(problem, BusyError):
        # The details of a failed store or bundle (paths, hosts, SQL) are for the operator, not for clients.
        log.error("%s", problem)
        text = "the signature store does not answer; try again" if status == 503 else INSIDE
    # A message may quote a name or a text with line breaks, and clients are promised one line.
    text = " ".join(text.splitlines())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 200]} … {text[-190:]}"
    if status in (429, 503):
        seconds = problem.seconds if isinstance(problem, TooManyError) else 1
        # Whole seconds (RFC 9110, 10.2.3), and not 0, which would invite a retry at once.
        headers.append(("Retry-After", str(max(1, math.ceil(seconds)))))
    if status == 401:
        # Required of a 401 (RFC 9110, 15.5.2).
        headers.append(("WWW-Authenticate", "Bearer"))
    answer = Answer.of_json({"error": text}, status=status, headers=tuple(headers))
    return answer, type(problem).__name__.removesuffix("Error")


def answer_with_json(app: Flask) -> None:
    """Answer every error of a Flask application in JSON."""
    app.register_error_handler(Exception, _refused)


def _refused(problem: Exception) -> Response:
    answer, get_record().error = refusal(problem)
    return Response(answer.body, answer.status, list(answer.headers))
