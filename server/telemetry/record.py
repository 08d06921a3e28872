"""What is told of a request afterwards: one line of JSON in the log, with its id, whose network answered, and never a sample.

    {"time", "request", "method", "route", "status", "ms", "bytes", "caller", "caller_id"?, "task"?, "signature"?, "revision"?, "digest"?, "error"?}

``caller`` is a name, which several callers may have; ``caller_id`` tells them apart. ``error`` is the kind of error.
What a client sends as its request's id is taken over if it is one: 1 to 128 printable characters.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import re
import secrets
import time
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = ["RECORD", "Ids", "Record", "Recorder"]

log = logging.getLogger("isoform.access")

RECORD = "isoform.record"
"""In a request's environment: its ``Record``, for routes to add to."""
CHANGING = ("/v1/", "/v2/repository/models/")
_ID = re.compile(r"[!-~]{1,128}")


@dataclasses.dataclass(slots=True)
class Record:
    """One request's."""

    request: str
    route: str = "none"
    caller: str = ""
    caller_id: str | None = None
    task: str | None = None
    signature: str | None = None
    revision: int | None = None
    digest: str | None = None
    error: str | None = None
    """Kind of error that it came to."""


class Recorder:
    """Writes records to the logger ``isoform.access``.

    Args:
        which: ``all``, ``errors`` (those that got 400 or more, and everything that changes something) or ``none``.
    """

    def __init__(self, which: Literal["all", "errors", "none"]) -> None:
        self._which = which

    def write(self, record: Record, environ: dict[str, Any], *, status: int, size: int, seconds: float) -> None:
        """Tell of a request that was answered.

        Args:
            record: What is known of it.
            environ: The request, as WSGI has it.
            status: Of the answer.
            size: Its bytes.
            seconds: From its arrival.
        """
        if self._which == "none":
            return
        method = environ["REQUEST_METHOD"]
        changes = method not in ("GET", "HEAD", "OPTIONS") and record.route.startswith(CHANGING)
        if self._which == "errors" and status < 400 and not changes:
            return
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds"), "request": record.request,
            "method": method, "route": record.route, "status": status, "ms": round(1e3 * seconds, 3), "bytes": size, "caller": record.caller,
        }  # fmt: skip
        for name in ("caller_id", "task", "signature", "revision", "digest", "error"):
            value = getattr(record, name)
            if value is not None and value != "":
                line[name] = value
        log.info("%s", json.dumps(line))


class Ids:
    """Of requests. Made in every process, after it forked: ids are random by process and counted within.

    Random bytes for each would be a system call, during which another thread takes its turn.
    """

    def __init__(self) -> None:
        self._prefix, self._numbers = secrets.token_hex(6), itertools.count()

    def of(self, environ: dict[str, Any]) -> str:
        """The id that the client gave its request, or a fresh one."""
        given: str = environ.get("HTTP_X_REQUEST_ID", "")
        return given if given and _ID.fullmatch(given) else f"{self._prefix}{next(self._numbers):08x}"
