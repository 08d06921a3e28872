"""How many requests may wait in a process, and how fast one caller or address may ask.

Requests wait for a thread, or for their turn in the loop (``dispatch.py``); with other servers nobody knows how many wait. A caller's
allowance is a token bucket: ``per_second`` requests on average, a second's worth at once.
"""

from __future__ import annotations

import collections
import threading
import time

from isoform.server.exchange.problems import BusyError, TooManyError

__all__ = ["Admission", "Rates"]

CALLERS = 100_000
"""Callers whose allowance is remembered; of more, those who asked longest ago begin with a full one."""


class Admission:
    """The queue of one process. Safe to use from several threads.

    Args:
        limit: Requests that may wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Requests that wait now."""
        return self._waiting

    def check(self) -> None:
        """Raise ``BusyError`` if no more may wait."""
        if self._waiting >= self.limit:
            raise BusyError(f"{self.limit} requests wait in this process; try again later")

    def enter(self, *, always: bool = False) -> None:
        """One more waits. Raises ``BusyError`` if it is one too many, unless it may always wait."""
        with self._lock:
            if not always:
                self.check()
            self._waiting += 1

    def leave(self) -> None:
        """One waits no longer."""
        with self._lock:
            self._waiting -= 1


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
