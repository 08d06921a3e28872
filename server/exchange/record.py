"""The record of a request: each stage adds to it, and log, metrics and traces are written from it.

    arrived          id, method, arrived, route, model                     front.py
    authenticated    caller                                                front.py
    handled          route, task, signature, revision, digest              routes/
    failed           error                                                 front.py, problems.py
    answered         status                                                front.py

Functions get the record as an argument. Flask's routes take no arguments, so they call ``get_record``, which finds it in the WSGI
environment: under ``_KEY``, the only key there that is ours.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import secrets
from typing import Any

from flask import request

from isoform.server.exchange.caller import NOBODY, Caller

__all__ = ["Ids", "Record", "attach_record", "get_record"]

_KEY = "isoform.record"
# No spaces, control or other characters: the id is echoed in a header and written to the log.
_ID = re.compile(r"[!-~]{1,128}")


@dataclasses.dataclass(slots=True)
class Record:
    """The record of one request. It needs no lock: one thread at a time handles a request."""

    id: str
    """The client's ``X-Request-Id``, or a generated one."""
    method: str
    """HTTP method."""
    arrived: float
    """``time.perf_counter()`` when the request and its body were complete, so that slow clients do not count as latency."""
    route: str = "none"
    """Rule of the matched route, like ``/v2/models/<task>/infer``; ``none`` if no route matches."""
    model: tuple[str, str] | None = None
    """Task and version in the path of a prediction; None for other requests."""
    caller: Caller = NOBODY
    task: str | None = None
    """Task of the signature that answered or was changed; None if there was none."""
    signature: str | None = None
    """User of that signature; None for the task's base signature."""
    revision: int | None = None
    """Revision of that signature."""
    digest: str | None = None
    """Digest of that signature, 64 hex digits."""
    error: str | None = None
    """Kind of error, as ``refusal`` returns it; None for success."""
    status: int = 0
    """HTTP status of the answer; 0 until there is one."""


def attach_record(environ: dict[str, Any], record: Record) -> None:
    """Store a request's record in its environment, for ``get_record``. The record must not refer to the environment: a cycle would delay freeing both."""
    environ[_KEY] = record


def get_record() -> Record:
    """The record of the request that Flask handles in this thread. Raises ``KeyError`` if the request did not pass through ``Front``."""
    record: Record = request.environ[_KEY]
    return record


class Ids:
    """Generator of request ids: a random prefix per process and a counter. Create it after the fork, or processes share the prefix."""

    def __init__(self) -> None:
        # Not random bytes for each id: that is a system call, which releases the GIL to another thread.
        self._prefix, self._numbers = secrets.token_hex(6), itertools.count()

    def of(self, environ: dict[str, Any]) -> str:
        """The request's ``X-Request-Id`` if it is 1 to 128 printable ASCII characters, else a new id."""
        given: str = environ.get("HTTP_X_REQUEST_ID", "")
        return given if given and _ID.fullmatch(given) else f"{self._prefix}{next(self._numbers):08x}"
