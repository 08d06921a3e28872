"""What a client is told when it does not get what it asked for.

Errors of isoform become status codes; every body is ``{"error": text}``:

    InputError, SignatureError, UsageError   400      NotFoundError     404
    UnknownCallerError                       401      ForbiddenError    403
    ConflictError                            409      PreconditionError 412
    TooManyError                             429      DeadlineError     408
    TooLargeError                            413      HeadTooLongError  431
    StoreError, BusyError, MemoryError       503, and OSError where no file descriptor is left
    anything else                            500, and the text stays in the log
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

INSIDE = "an error inside the server; its log has the details"
_NO_MEMORY = re.compile(r"allocate memory|bad_alloc|bad allocation", re.IGNORECASE)
"""What ONNX Runtime says where memory ends."""
LONGEST = 1000
"""Characters of an error: what a client sent wrong is quoted to it, but not all of a long thing."""


class NotFoundError(IsoformError):
    """There is nothing of that name."""


class BusyError(IsoformError):
    """There is too much to do already: try again later."""


class TooLargeError(IsoformError):
    """The request, or its answer, is larger than this server allows."""


class HeadTooLongError(IsoformError):
    """There are more headers than are read, or longer ones."""


class DeadlineError(IsoformError):
    """The time that the request gives itself is over."""


class TooManyError(IsoformError):
    """The caller sent more requests than it may.

    Args:
        text: What is said.
        seconds: When to try again.
    """

    def __init__(self, text: str, *, seconds: float = 5.0) -> None:
        super().__init__(text)
        self.seconds = seconds


class UnknownCallerError(IsoformError):
    """Nobody knows whose request that is."""


class ForbiddenError(IsoformError):
    """It is known whose request that is, and that it may not."""


class PreconditionError(IsoformError):
    """``If-Match`` or ``If-None-Match`` says that this should not be done now."""


STATUS: dict[type[IsoformError], int] = {
    InputError: 400, SignatureError: 400, UsageError: 400, NotFoundError: 404, ConflictError: 409, PreconditionError: 412,
    StoreError: 503, BusyError: 503, UnknownCallerError: 401, ForbiddenError: 403, TooManyError: 429, DeadlineError: 408,
    TooLargeError: 413, HeadTooLongError: 431,
}  # fmt: skip


def refusal(problem: Exception) -> tuple[Answer, str]:
    """What to answer to a request that failed, and the kind of error, for counting."""
    if isinstance(problem, MemoryError) or (isinstance(problem, EngineError) and _NO_MEMORY.search(str(problem))):
        log.error("a request found too little memory: %s", str(problem) or type(problem).__name__)
        problem = BusyError("there was not enough memory for the request; send fewer samples at a time, or try again")
    if isinstance(problem, OSError) and problem.errno in (errno.EMFILE, errno.ENFILE):
        log.error("a request found no free file descriptor: %s", problem)
        problem = BusyError("too many files and connections are open; try again")
    if isinstance(problem, HTTPException):
        allow = tuple((name, value) for name, value in problem.get_headers() if name == "Allow")
        text = problem.description or problem.name
        return Answer.of_json({"error": text}, status=problem.code or 500, headers=allow), problem.name.replace(" ", "")
    if not isinstance(problem, IsoformError):
        log.error("a request failed", exc_info=problem)
        return Answer.of_json({"error": INSIDE}, status=500), "Unforeseen"
    status, text, headers = STATUS.get(type(problem), 500), str(problem), list[tuple[str, str]]()
    if status in (500, 503) and not isinstance(problem, BusyError):
        log.error("%s", problem)
        text = "the signature store does not answer; try again" if status == 503 else INSIDE
    text = " ".join(text.splitlines())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 200]} … {text[-190:]}"
    if status in (429, 503):
        seconds = problem.seconds if isinstance(problem, TooManyError) else 1
        headers.append(("Retry-After", str(max(1, math.ceil(seconds)))))
    if status == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    answer = Answer.of_json({"error": text}, status=status, headers=tuple(headers))
    return answer, type(problem).__name__.removesuffix("Error")


def answer_with_json(app: Flask) -> None:
    """Let every error of an application be JSON."""
    app.register_error_handler(Exception, _refused)


def _refused(problem: Exception) -> Response:
    answer, get_record().error = refusal(problem)
    return Response(answer.body, answer.status, list(answer.headers))
