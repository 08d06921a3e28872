"""How many requests may wait in a process, how long the one at hand has waited, and how fast one caller or address may ask.

Whoever accepts connections (``http/gthread.py``) says when a request has arrived, before a thread is free for it; with other servers a request
arrives when its thread takes it. A caller's allowance is a token bucket: ``per_second`` requests on average, a second's worth at once.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time

from isoform.server.problems import BusyError, TooManyError

__all__ = ["Admission", "Rates", "Ticket"]

CALLERS = 100_000
"""Callers whose allowance is remembered; of more, those who asked longest ago begin with a full one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ticket:
    """One request's."""

    arrived: float
    """``time.perf_counter()`` then."""
    waits: bool = False
    """Whether it waits for a thread."""
    refused: bool = False
    """Whether there were too many before it."""


class Admission:
    """The queue of one process. Safe to use from several threads.

    Args:
        limit: Requests that may wait for a thread.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting = 0
        self._lock = threading.Lock()
        self._here = threading.local()

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread now."""
        return self._waiting

    def arrive(self) -> Ticket:
        """A request is here; it waits unless it is refused."""
        with self._lock:
            refused = self._waiting >= self.limit
            self._waiting += not refused
        return Ticket(time.perf_counter(), waits=not refused, refused=refused)

    def begin(self, ticket: Ticket) -> None:
        """This thread takes it up."""
        if ticket.waits:
            with self._lock:
                self._waiting -= 1
        self._here.ticket = ticket

    def take(self) -> float:
        """When the request that this thread handles arrived; now, if nobody said so. Raises ``BusyError`` if it is one too many."""
        ticket: Ticket | None = getattr(self._here, "ticket", None)
        self._here.ticket = None
        if ticket is None:
            return time.perf_counter()
        if ticket.refused:
            raise BusyError(f"{self.limit} requests wait in this process; try again later")
        return ticket.arrived


class Rates:
    """Allowances of callers, in one process. Safe to use from several threads.

    Args:
        per_second: Requests; 0 for no limit.
        who: Whose they are, for the refusal.
        at_once: At least so many requests may come at once.
    """

    def __init__(self, per_second: float, *, who: str = "this key", at_once: float = 1.0) -> None:
        self._rate, self._who = per_second, who
        self._most = max(at_once, per_second)
        self._left = collections.OrderedDict[str, tuple[float, float]]()
        self._lock = threading.Lock()

    def spend(self, caller: str) -> None:
        """One request. Raises ``TooManyError`` if the caller has none left."""
        if self._rate <= 0:
            return
        now = time.monotonic()
        with self._lock:
            left, last = self._left.pop(caller, (self._most, now))
            left = min(self._most, left + (now - last) * self._rate)
            self._left[caller] = max(left - 1, 0.0) if left >= 1 else left, now
            if len(self._left) > CALLERS:
                self._left.popitem(last=False)
        if left < 1:
            raise TooManyError(
                f"{self._who} may send {self._rate:g} requests a second, and sent more", seconds=(1 - left) / self._rate
            )
