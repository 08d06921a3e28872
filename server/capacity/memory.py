"""How much memory the requests of one process may hold together: a budget in bytes that its threads share.

What a request needs is taken from the budget before it is allocated: its body, what JSON becomes as Python's objects, its answer until
the client has taken it. A request that needs more than the whole budget is refused for good (413), one that has to wait for others is
refused for now (503, ``Retry-After``). Up to ``FREE_BYTES`` a request is short and takes nothing, so that short ones pass while long
ones fill the budget; and long ones may occupy some of the threads only, so that there is one for a short request.

Samples of jobs stay in memory while the job waits and runs. They have at most half of the budget, until their array is freed; those of
one caller a quarter of that, or one job, so that nobody's samples keep out everybody else's jobs.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import threading
import weakref
from types import TracebackType
from typing import Self

from isoform.runtime.arrays import Array
from isoform.server.exchange.problems import BusyError, TooLargeError, TooManyError

__all__ = ["FREE_BYTES", "Memory", "Share", "give_back_freed_memory", "json_memory"]

FREE_BYTES = 4 << 20
CALLERS = 4
"""A caller may hold so small a part of what samples of jobs may."""
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""glibc's numbers for what ``mallopt`` sets, from malloc.h."""
LARGE_BLOCK, HEAPS = 256 << 10, 2
_COSTS = ((b",", 48), (b"[", 80), (b"{", 72), (b":", 200), (b'"', 32))
"""Bytes of Python's objects behind each of these at most: a number and its place in a list, a list, a dict, its entry, half a text."""


class Memory:
    """One process's budget. Safe to use from several threads.

    Args:
        limit: Bytes that requests and jobs may hold together.
        samples: Samples of one request.
        long_requests: Requests that may hold more than ``FREE_BYTES`` at the same time.
    """

    def __init__(self, limit: int, *, samples: int, long_requests: int) -> None:
        self.limit, self.samples, self._longest = limit, samples, long_requests
        self._used = self._long = 0
        self._kept = collections.Counter[str]()
        """Caller → bytes of samples of its jobs."""
        # An array is freed wherever Python likes, also in a thread that holds the lock: so it may be taken twice.
        self._lock = threading.RLock()

    @property
    def used(self) -> int:
        """Bytes that are held now."""
        return self._used

    def share(self) -> Share:
        """What one request holds: a context manager, at whose end it holds nothing."""
        return Share(self)

    def check(self, size: int) -> None:
        """Raise ``TooLargeError`` if no request may hold so many bytes."""
        if size > self.limit:
            raise TooLargeError(
                f"the request takes up to {size:,} bytes of memory, but {self.limit:,} is what all may take; "
                "send fewer samples at a time, and numbers as binary tensors instead of JSON"
            )

    def check_room(self, size: int) -> None:
        """Check whether a request of so many bytes could be handled now, before its body is sent.

        Raises:
            TooLargeError: If no request may hold so many.
            BusyError: If others hold too many.
        """
        self.check(size)
        if size > FREE_BYTES:
            with self._lock:
                self._check_others(size)

    def keep(self, samples: Array, caller: str) -> None:
        """Count a job's samples until their array is freed.

        Args:
            samples: The array, which owns its numbers: a view would keep what it is a view of.
            caller: Whose job it is.

        Raises:
            TooLargeError: If no job may hold so much.
            TooManyError: If other jobs of that caller hold too much.
            BusyError: If jobs of others do.
        """
        size, most = samples.nbytes, self.limit // 2
        if size > most:
            raise TooLargeError(f"the samples take {size:,} bytes, but those of jobs may take {most:,}; send fewer")
        with self._lock:
            own, kept = self._kept[caller], self._kept.total()
            if own and own + size > most // CALLERS:
                raise TooManyError(
                    f"samples of this caller's jobs take {own:,} of {most // CALLERS:,} bytes; try again later"
                )
            if kept + size > most:
                raise BusyError(f"samples of jobs that wait take {kept:,} of {most:,} bytes; try again later")
            self.move(size)
            self._kept[caller] += size
        weakref.finalize(samples, self._forget, size, caller).atexit = False

    def move(self, change: int, *, requests: int = 0) -> None:
        """Hold so many bytes more, or less, for that many long requests more. Raises ``BusyError`` if others hold too many."""
        with self._lock:
            self._check_others(change, requests=requests)
            self._used += change
            self._long += requests

    def _check_others(self, change: int, *, requests: int = 1) -> None:
        if requests > 0 and self._long == self._longest:
            raise BusyError(f"{self._long} long requests are handled already; try again, or send fewer samples")
        if change > 0 and self._used + change > self.limit:
            raise BusyError(f"other requests hold {self._used:,} of {self.limit:,} bytes; try again")

    def _forget(self, size: int, caller: str) -> None:
        with self._lock:
            self._used -= size
            self._kept[caller] -= size
            if not self._kept[caller]:
                del self._kept[caller]


class Share:
    """What one request holds of a budget; the protocol's ``Bounds``."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self._held = memory, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        """Of an answer that was never sent, because its connection broke."""
        self.release()

    def release(self) -> None:
        """Hold nothing any longer."""
        self.hold(0)

    @property
    def held(self) -> int:
        """Bytes that it holds now."""
        return self._held

    def hold(self, size: int) -> None:
        """Hold so many bytes in all from now on, more or fewer than before.

        Raises:
            TooLargeError: If that is more than the whole budget.
            BusyError: If other requests hold too much.
        """
        size = size if size > FREE_BYTES else 0
        self._memory.check(size)
        if size != self._held:
            self._memory.move(size - self._held, requests=(size > 0) - (self._held > 0))
            self._held = size

    def hold_json(self, body_bytes: int, text: bytes | bytearray, /) -> None:
        """Hold a body, and what becomes of the JSON in it. Raises as ``hold``."""
        self.hold(body_bytes + len(text) + json_memory(text))

    def check_samples(self, count: int, /) -> None:
        """Raise ``TooLargeError`` if one request may not have so many samples."""
        if count > self._memory.samples:
            raise TooLargeError(
                f"{count:,} samples came, but a request may have {self._memory.samples:,}; send fewer at a time"
            )


def give_back_freed_memory() -> None:
    """Let large blocks go back to the system when they are freed: for each process, before it has threads. With glibc; else nothing.

    By itself glibc takes larger and larger blocks from heaps of its own, one for every thread, and a hole in them stays.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_ARENA_MAX, HEAPS)


def json_memory(text: bytes | bytearray) -> int:
    """Bytes that a JSON text and what it is read into take at most, counted before it is read."""
    wide = not text.isascii() or b"\\u" in text  # one wide character makes all of a text four bytes each
    return len(text) * (8 if wide else 2) + sum(cost * text.count(mark) for mark, cost in _COSTS)
