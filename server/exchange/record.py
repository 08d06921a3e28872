"""What is known of one request: one object, which everything that a request passes adds to, and from which is told what came of it.

    it came       id, method, arrived, route, model                        front.py
    who sent it   caller                                                   front.py
    handled       route, task, signature, revision, digest                 routes/
    refused       error                                                    front.py, problems.py
    answered      status                                                   front.py

Whoever handles a request is given its record as an argument. Flask's routes are given nothing, so they ask for it (``get_record``): it
stands in the request's WSGI environment too, under the only key there that is ours. Everything else in the environment is WSGI's.
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
_ID = re.compile(r"[!-~]{1,128}")


@dataclasses.dataclass(slots=True)
class Record:
    """One request's. Only one thread at a time handles a request, so nobody else writes."""

    id: str
    """The client's own, or a fresh one."""
    method: str
    """``GET`` and its like."""
    arrived: float
    """``time.perf_counter()`` when it could be answered: when it came, and its body too."""
    route: str = "none"
    """As the application has it, like ``/v2/models/<task>/infer``; ``none`` if its path is no route's."""
    model: tuple[str, str] | None = None
    """Task and version of which a prediction is asked for, as the path has them; None if it is none."""
    caller: Caller = NOBODY
    task: str | None = None
    """Whose network answered, or was changed: of this task, …"""
    signature: str | None = None
    """… this user's; None for the task's base signature, …"""
    revision: int | None = None
    """… in this revision, …"""
    digest: str | None = None
    """… and its digest."""
    error: str | None = None
    """Kind of error that it came to, as ``refusal`` says it; None if it came to none."""
    status: int = 0
    """Of its answer; 0 as long as there is none."""


def attach_record(environ: dict[str, Any], record: Record) -> None:
    """Let ``get_record`` find a WSGI request's record. The record must not hold the environment, or neither is freed when it could be."""
    environ[_KEY] = record


def get_record() -> Record:
    """The record of the request that Flask handles in this thread. Raises ``KeyError`` if it did not pass ``front.py``."""
    record: Record = request.environ[_KEY]
    return record


class Ids:
    """Of requests. Made in every process, after it forked: ids are random by process and counted within.

    Random bytes for each would be a system call, during which another thread takes its turn.
    """

    def __init__(self) -> None:
        self._prefix, self._numbers = secrets.token_hex(6), itertools.count()

    def of(self, environ: dict[str, Any]) -> str:
        """The id that the client gave its request, if it is 1 to 128 printable characters, or a fresh one."""
        given: str = environ.get("HTTP_X_REQUEST_ID", "")
        return given if given and _ID.fullmatch(given) else f"{self._prefix}{next(self._numbers):08x}"
