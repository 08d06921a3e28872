"""What stays in memory: a cache of built things with a limit in bytes, the longest unused dropped first.

An entry is *borrowed*: while it is, it is not dropped, and nothing in it may change. One thread builds an entry, others that want
the same one wait for it. Where room must be made, the builder gets the dropped thing, to build the new one in its memory.
Knows nothing of what it holds.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Cache"]

T = TypeVar("T")
Build = Callable[[Callable[[], T | None]], tuple[T, int]]


class _Entry(Generic[T]):
    __slots__ = ("borrowers", "building", "failed", "size", "value")

    def __init__(self) -> None:
        self.borrowers = 1
        self.building: threading.Lock | None = threading.Lock()
        self.building.acquire()
        self.failed = False
        self.size = 0
        self.value: T


class Cache(Generic[T]):
    """Entries by key. Safe to use from several threads.

    Args:
        limit_bytes: How many bytes may stay. Entries that are borrowed stay beyond it, and so does the one used last; while one
            is built, it comes on top.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._entries: collections.OrderedDict[str, _Entry[T]] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._bytes = self._hits = self._misses = self._evictions = 0
        self._seconds = self._longest = 0.0

    @contextlib.contextmanager
    def borrow(self, key: str, build: Build[T]) -> Iterator[T]:
        """The entry of a key, for as long as the ``with`` block lasts.

        Args:
            key: Whose entry.
            build: Makes the entry, and says how many bytes it takes; called only if it is not here. Its errors pass through.
                It may call its argument once: if there is no room for one more, that drops the longest unused entry and
                returns it, for its memory to be used again; else it returns None.
        """
        entry, mine = self._taken(key)
        try:
            if mine:
                self._build(key, entry, build)
            yield entry.value
        finally:
            self._give_back(entry)

    def _give_back(self, entry: _Entry[T]) -> None:
        with self._lock:
            entry.borrowers -= 1
            self._trim()

    def _taken(self, key: str) -> tuple[_Entry[T], bool]:
        """The entry, borrowed; and whether the caller has to build it. Waits for others to build it."""
        while True:
            with self._lock:
                entry = self._entries.get(key)
                if entry is None:
                    entry = self._entries[key] = _Entry()
                    return entry, True
                entry.borrowers += 1
                self._entries.move_to_end(key)
                building = entry.building
            try:
                if building is not None:
                    with building:  # free once it is built, or has failed
                        pass
            except BaseException:
                self._give_back(entry)
                raise
            if not entry.failed:
                with self._lock:
                    self._hits += 1
                return entry, False

    def _build(self, key: str, entry: _Entry[T], build: Build[T]) -> None:
        building, started = entry.building, time.perf_counter()
        try:
            entry.value, size = build(self._make_room)
            with self._lock:
                seconds = time.perf_counter() - started
                self._misses += 1
                self._seconds += seconds
                self._longest = max(self._longest, seconds)
                if self._entries.get(key) is entry:
                    self._entries.move_to_end(key)
                    entry.size = size
                    self._bytes += size
                    self._trim()
                entry.building = None
        except BaseException:
            with self._lock:
                entry.failed = True
                if self._entries.get(key) is entry:
                    del self._entries[key]
                    self._bytes -= entry.size
            raise
        finally:
            if building is not None:
                building.release()

    def _make_room(self) -> T | None:
        with self._lock:
            oldest = self._oldest()
            return self._dropped(beyond=self._limit - self._entries[oldest].size) if oldest else None

    def _oldest(self) -> str | None:
        """The longest unused entry that nobody holds, the one used last excepted."""
        newest = next(reversed(self._entries), None)
        return next((key for key, entry in self._entries.items() if not entry.borrowers and key != newest), None)

    def _dropped(self, *, beyond: int) -> T | None:
        """Drop the oldest entry if the cache holds more bytes than so many."""
        oldest = self._oldest() if self._bytes > beyond else None
        if oldest is None:
            return None
        entry = self._entries.pop(oldest)
        self._bytes -= entry.size
        self._evictions += 1
        return entry.value

    def _trim(self) -> None:
        while self._dropped(beyond=self._limit) is not None:
            pass

    def discard(self, key: str) -> None:
        """Let go of one entry, if it is here and nobody holds it."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and not entry.borrowers:
                del self._entries[key]
                self._bytes -= entry.size

    def clear(self) -> None:
        """Let go of every entry; those that are borrowed live until they are given back. Counts go on."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def stats(self) -> dict[str, float]:
        """``entries``, ``bytes`` and ``limit_bytes`` now; since the start ``hits``, ``misses``, ``evictions``, and how long
        the misses took, ``miss_seconds`` in all and ``longest_miss_seconds``.
        """
        with self._lock:
            return {
                "entries": len(self._entries), "bytes": self._bytes, "limit_bytes": self._limit,
                "hits": self._hits, "misses": self._misses, "evictions": self._evictions,
                "miss_seconds": self._seconds, "longest_miss_seconds": self._longest,
            }  # fmt: skip
