"""The limit of the request queue, and rate limits per caller or address; both per process.

Requests queue for a thread or for the event loop (``dispatch.py``). A rate limit is a token bucket: ``per_second`` requests on average,
with a burst of one second's worth.
"""

from __future__ import annotations

import collections
import threading
import time

from isoform.server.exchange.problems import BusyError, TooManyError

__all__ = ["Admission", "Rates"]

CALLERS = 100_000
"""Token buckets kept. Beyond that the least recently used is evicted, and its caller starts with a full one."""


class Admission:
    """Counts the queued requests of one process. Safe to use from several threads.

    Args:
        limit: Longest queue.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Length of the queue now."""
        return self._waiting

    def check(self) -> None:
        """Raise ``BusyError`` if the queue is full."""
        # Callers other than ``enter`` hold no lock: an old value shifts the limit by a request for a moment.
        if self._waiting >= self.limit:
            raise BusyError(f"the queue is full: {self.limit} requests wait in this process; try again later")

    def enter(self, *, always: bool = False) -> None:
        """Count a request that is queued. Raises ``BusyError`` if the queue is full, unless ``always``."""
        with self._lock:
            if not always:
                self.check()
            self._waiting += 1

    def leave(self) -> None:
        """Count a request that leaves the queue."""
        with self._lock:
            self._waiting -= 1


class Rates:
    """Rate limits of callers, in one process. Safe to use from several threads.

    Args:
        per_second: Average rate in requests per second; 0 for no limit.
        who: What is limited, for the message.
        at_once: Smallest burst, in requests; it is ``per_second`` where that is more.
    """

    def __init__(self, per_second: float, *, who: str = "this key", at_once: float = 1.0) -> None:
        self._rate, self._who = per_second, who
        # With a rate below 1 a second, a bucket of that size would never hold a whole request.
        self._most = max(at_once, per_second)
        self._left = collections.OrderedDict[str, tuple[float, float]]()
        self._lock = threading.Lock()

    def spend(self, caller: str) -> None:
        """Count a request of a caller. Raises ``TooManyError`` if it exceeds the rate limit."""
        if self._rate <= 0:
            return
        now = time.monotonic()
        with self._lock:
            # Taken out and put back, so that the order is by last use, for eviction.
            left, last = self._left.pop(caller, (self._most, now))
            left = min(self._most, left + (now - last) * self._rate)
            # A refused request costs nothing: a client that keeps retrying still gets its average rate.
            self._left[caller] = left - 1 if left >= 1 else left, now
            if len(self._left) > CALLERS:
                self._left.popitem(last=False)
        if left < 1:
            raise TooManyError(
                f"rate limit exceeded: {self._who} may send {self._rate:g} requests a second; try again later",
                seconds=(1 - left) / self._rate,
            )
