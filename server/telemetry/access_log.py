"""The access log: one line of JSON per request, with its id and the signature that answered, never with samples.

    {"time", "request", "method", "route", "status", "ms", "bytes", "caller", "caller_id"?, "task"?, "signature"?, "revision"?, "digest"?, "error"?}

``request`` is the request's id. ``caller`` is a name and may not be unique; ``caller_id`` is. ``error`` is the kind of error.
"""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any, Literal

from isoform.server.exchange.record import Record

__all__ = ["Recorder"]

log = logging.getLogger("isoform.access")

CHANGING = ("/v1/", "/v2/repository/models/")
"""Prefixes of routes that change something, if the method is not a read."""


class Recorder:
    """Writes records to the logger ``isoform.access``.

    Args:
        which: Requests to log: ``all``, ``errors`` (status 400 or higher, and everything that changes something) or ``none``.
    """

    def __init__(self, which: Literal["all", "errors", "none"]) -> None:
        self._which = which

    def write(self, record: Record, *, size: int, seconds: float) -> None:
        """Log an answered request.

        Args:
            record: The request's record.
            size: Size of the answer, in bytes.
            seconds: Latency since its arrival.
        """
        if self._which == "none":
            return
        changes = record.method not in ("GET", "HEAD", "OPTIONS") and record.route.startswith(CHANGING)
        if self._which == "errors" and record.status < 400 and not changes:
            return
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds"), "request": record.id,
            "method": record.method, "route": record.route, "status": record.status, "ms": round(1e3 * seconds, 3), "bytes": size,
            "caller": record.caller.name,
        }  # fmt: skip
        more = {
            "caller_id": record.caller.id, "task": record.task, "signature": record.signature, "revision": record.revision,
            "digest": record.digest, "error": record.error,
        }  # fmt: skip
        line |= {name: value for name, value in more.items() if value is not None and value != ""}
        log.info("%s", json.dumps(line))  # as ASCII: a caller's name cannot break the line or forge another
