"""The memory budget of one process: bytes that its requests and jobs may hold together.

Memory is reserved before it is allocated: for a body, for JSON as Python objects, for an answer until the client has received it. A body
of unknown or compressed length is reserved as it grows, after each piece (``exchange/body.py``). A request that needs more than the whole
budget gets 413; one that does not fit beside others now gets 503 with ``Retry-After``. Requests of up to ``FREE_BYTES`` are short and
reserve nothing, so that they pass while long ones fill the budget; and the number of long requests at once is limited, so that threads
are left for short ones.

Samples of jobs are held until the job has ended and their array is freed. They may take half of the budget, those of one caller a
quarter of that or one job, so that no caller can block the jobs of all others.
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
"""Requests of up to this size reserve nothing."""
CALLERS = 4
"""One caller's samples may take 1 / ``CALLERS`` of the memory for samples of jobs."""
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Parameters of glibc's ``mallopt``, from malloc.h."""
# Measured: 273 MB stay resident of a run that keeps 392 MB with glibc's defaults (docs/log.md).
LARGE_BLOCK, HEAPS = 256 << 10, 2
"""Their values: size in bytes from which blocks are mapped on their own, and the number of arenas."""
_COSTS = ((b",", 48), (b"[", 80), (b"{", 72), (b":", 200), (b'"', 32))
"""Upper bounds in bytes for the Python objects behind a character: a number and its list slot, a list, a dict, a dict entry, half a text."""


class Memory:
    """The memory budget of one process. Safe to use from several threads.

    Args:
        limit: Bytes that requests and jobs may hold together.
        samples: Most samples of one request.
        long_requests: Most requests at a time that hold more than ``FREE_BYTES``.
    """

    def __init__(self, limit: int, *, samples: int, long_requests: int) -> None:
        self.limit, self.samples, self._longest = limit, samples, long_requests
        self._used = self._long = 0
        self._kept = collections.Counter[str]()
        """Caller → bytes of samples of its jobs."""
        # Reentrant, because an array's finalizer may run at any point, also in a thread that holds the lock.
        self._lock = threading.RLock()

    @property
    def used(self) -> int:
        """Bytes reserved now."""
        return self._used

    def share(self) -> Share:
        """A new share for one request, as a context manager that releases it at the end."""
        return Share(self)

    def check(self, size: int) -> None:
        """Raise ``TooLargeError`` if the size exceeds the whole budget."""
        if size > self.limit:
            raise TooLargeError(
                f"the request may need {size:,} bytes of memory, but the limit for all requests is {self.limit:,}; "
                "send fewer samples at a time, and numbers as binary tensors instead of JSON"
            )

    def check_room(self, size: int) -> None:
        """Check whether a request of that many bytes could be handled now, before its body is read.

        Raises:
            TooLargeError: If the size exceeds the whole budget.
            BusyError: If other requests leave too little of it.
        """
        self.check(size)
        if size > FREE_BYTES:
            with self._lock:
                self._check_others(size)

    def keep(self, samples: Array, caller: str) -> None:
        """Reserve memory for a job's samples until their array is freed.

        Args:
            samples: An array that owns its data: a view would keep its base in memory, uncounted.
            caller: Caller of the job.

        Raises:
            TooLargeError: If the samples exceed the limit for jobs.
            TooManyError: If they exceed the caller's share, together with its other jobs.
            BusyError: If jobs of all callers leave too little.
        """
        size, most = samples.nbytes, self.limit // 2
        if size > most:
            raise TooLargeError(
                f"the samples take {size:,} bytes, but the limit for jobs is {most:,}; send fewer samples"
            )
        with self._lock:
            own, kept = self._kept[caller], self._kept.total()
            if own and own + size > most // CALLERS:
                raise TooManyError(
                    f"samples of this caller's jobs hold {own:,} of {most // CALLERS:,} bytes; try again later"
                )
            if kept + size > most:
                raise BusyError(f"samples of all jobs hold {kept:,} of {most:,} bytes; try again later")
            self.move(size)
            self._kept[caller] += size
        # By a finalizer: only Python knows when the job, the engine and every exception have let go of the array.
        weakref.finalize(samples, self._forget, size, caller).atexit = False

    def move(self, change: int, *, requests: int = 0) -> None:
        """Reserve or release bytes, and count long requests. Raises ``BusyError`` if that exceeds the budget."""
        with self._lock:
            self._check_others(change, requests=requests)
            self._used += change
            self._long += requests

    def _check_others(self, change: int, *, requests: int = 1) -> None:
        # Only growth is checked: a release must never fail.
        if requests > 0 and self._long == self._longest:
            raise BusyError(f"{self._long} long requests are in flight already; try again, or send fewer samples")
        if change > 0 and self._used + change > self.limit:
            raise BusyError(f"other requests hold {self._used:,} of {self.limit:,} bytes of memory; try again")

    def _forget(self, size: int, caller: str) -> None:
        with self._lock:
            self._used -= size
            self._kept[caller] -= size
            if not self._kept[caller]:
                del self._kept[caller]


class Share:
    """The memory that one request holds of a budget; implements the protocol's ``Bounds``."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self._held = memory, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        """Release the share of an answer that was never sent because its connection broke."""
        self.release()

    def release(self) -> None:
        """Release all of it."""
        self.hold(0)

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def hold(self, size: int) -> None:
        """Set the total that the request holds; it may grow or shrink.

        Raises:
            TooLargeError: If the size exceeds the whole budget.
            BusyError: If other requests leave too little of it.
        """
        size = size if size > FREE_BYTES else 0
        self._memory.check(size)
        if size != self._held:
            # Only the difference: after a release, another request could take the memory before it is reserved again.
            self._memory.move(size - self._held, requests=(size > 0) - (self._held > 0))
            self._held = size

    def hold_json(self, body_bytes: int, text: bytes | bytearray, /) -> None:
        """Hold a body, its JSON, and the Python objects that the JSON becomes. Raises as ``hold``."""
        self.hold(body_bytes + len(text) + json_memory(text))

    def check_samples(self, count: int, /) -> None:
        """Raise ``TooLargeError`` if a request has too many samples."""
        if count > self._memory.samples:
            raise TooLargeError(
                f"{count:,} samples came, but the limit for a request is {self._memory.samples:,}; send fewer at a time"
            )


def give_back_freed_memory() -> None:
    """Make glibc return large blocks to the system when they are freed. Call it in each process before threads start; no effect without glibc.

    By default glibc raises its mmap threshold as large blocks are freed and has an arena per thread, which stay fragmented.
    """
    # Not glibc: no function mallopt (musl, macOS), or no library without a name (Windows).
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_ARENA_MAX, HEAPS)


def json_memory(text: bytes | bytearray) -> int:
    """Upper bound in bytes for a JSON text and its parsed objects, computed before parsing."""
    wide = not text.isascii() or b"\\u" in text  # one wide character makes CPython store four bytes per character
    return len(text) * (8 if wide else 2) + sum(cost * text.count(mark) for mark, cost in _COSTS)
