"""What is told of a request afterwards: one line of JSON in the log, with its id, whose network answered, and never a sample.

    {"time", "request", "method", "route", "status", "ms", "bytes", "caller", "caller_id"?, "task"?, "signature"?, "revision"?, "digest"?, "error"?}

``request`` is its id. ``caller`` is a name, which several callers may have; ``caller_id`` tells them apart. ``error`` is the kind of error.
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


class Recorder:
    """Writes records to the logger ``isoform.access``.

    Args:
        which: ``all``, ``errors`` (those that got 400 or more, and everything that changes something) or ``none``.
    """

    def __init__(self, which: Literal["all", "errors", "none"]) -> None:
        self._which = which

    def write(self, record: Record, *, size: int, seconds: float) -> None:
        """Tell of a request that was answered.

        Args:
            record: What is known of it.
            size: Bytes of the answer.
            seconds: From its arrival.
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
        log.info("%s", json.dumps(line))
