"""A thread-safe LRU cache with a limit in bytes, whose entries are pinned while in use.

Callers *borrow* an entry: until they return it, it is pinned and must not change. On a miss one thread builds the entry, and other
threads that need the same key wait for it. If an entry must be evicted, the builder receives it, to reuse its memory.
The cache is independent of the type of its entries.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Cache", "Entry"]

T = TypeVar("T")
Build = Callable[[Callable[[], T | None]], tuple[T, int]]


class Entry(Generic[T]):
    """What is cached under one key; ``value`` may be used between ``pinned`` and ``give_back``."""

    __slots__ = ("borrowers", "building", "failed", "size", "value")

    def __init__(self) -> None:
        self.borrowers = 1  # the thread that builds it
        self.building: threading.Lock | None = threading.Lock()
        self.building.acquire()
        self.failed = False
        self.size = 0
        self.value: T


class Cache(Generic[T]):
    """Entries by key. Thread-safe.

    Args:
        limit_bytes: Size of the cache, in bytes. Pinned entries and the most recently used one are kept even beyond it; an entry
            under construction is not counted.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._entries: collections.OrderedDict[str, Entry[T]] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._bytes = self._hits = self._misses = self._evictions = 0
        self._seconds = self._longest = 0.0

    @contextlib.contextmanager
    def borrow(self, key: str, build: Build[T]) -> Iterator[T]:
        """Pin the entry of a key for the duration of the ``with`` block, and build it on a miss.

        Args:
            key: Key of the entry.
            build: Returns the entry and its size in bytes; called only on a miss. Its exceptions propagate.
                It may call its argument once: if the cache is full, that evicts the least recently used entry and
                returns it, so that its memory can be reused; else it returns None.
        """
        entry = self.pinned(key, build)
        try:
            yield entry.value
        finally:
            self.give_back(entry)

    def pinned(self, key: str, build: Build[T]) -> Entry[T]:
        """As ``borrow``, without the ``with`` block, whose generator takes longer than the rest: the caller must ``give_back`` the entry."""
        entry, mine = self._taken(key)
        if mine:
            try:
                self._build(key, entry, build)
            except BaseException:
                self.give_back(entry)
                raise
        return entry

    def give_back(self, entry: Entry[T]) -> None:
        """Unpin an entry."""
        with self._lock:
            entry.borrowers -= 1
            self._trim()

    def _taken(self, key: str) -> tuple[Entry[T], bool]:
        """Pin the entry; return it, and whether the caller has to build it. Waits if another thread is building it."""
        while True:
            with self._lock:
                entry = self._entries.get(key)
                if entry is None:
                    # in the table before it is built, so that other threads wait instead of building it, too
                    entry = self._entries[key] = Entry()
                    return entry, True
                entry.borrowers += 1
                self._entries.move_to_end(key)
                building = entry.building
                if building is None and not entry.failed:
                    self._hits += 1
                    return entry, False
            try:
                if building is not None:
                    with building:  # held by the builder until the entry is built or has failed
                        pass
            except BaseException:  # Ctrl-C while waiting must not leave the entry pinned for ever
                self.give_back(entry)
                raise
            if not entry.failed:  # a waiter whose builder failed tries again, and may become the builder
                with self._lock:
                    self._hits += 1
                return entry, False

    def _build(self, key: str, entry: Entry[T], build: Build[T]) -> None:
        building, started = entry.building, time.perf_counter()
        try:
            entry.value, size = build(self._make_room)
            with self._lock:
                seconds = time.perf_counter() - started
                self._misses += 1
                self._seconds += seconds
                self._longest = max(self._longest, seconds)
                # clear() may have removed it meanwhile: then it lives as long as its borrowers
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
            # The size of the new entry is not known yet: assumed to be that of the one whose memory it takes over.
            return self._dropped(beyond=self._limit - self._entries[oldest].size) if oldest else None

    def _oldest(self) -> str | None:
        """Return the key of the least recently used entry that is not pinned, except the most recently used one."""
        # without this exception, an entry larger than the limit would be rebuilt for every prediction
        newest = next(reversed(self._entries), None)
        return next((key for key, entry in self._entries.items() if not entry.borrowers and key != newest), None)

    def _dropped(self, *, beyond: int) -> T | None:
        """Evict the least recently used entry if the cache holds more than ``beyond`` bytes."""
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
        """Remove an entry, if it exists and is not pinned."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and not entry.borrowers:
                del self._entries[key]
                self._bytes -= entry.size

    def clear(self) -> None:
        """Remove all entries; pinned ones live until they are returned. Counters are kept."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def stats(self) -> dict[str, float]:
        """Return the current ``entries``, ``bytes`` and ``limit_bytes``; and since the start ``hits``, ``misses``, ``evictions``,
        and the time spent on misses, ``miss_seconds`` in total and ``longest_miss_seconds``.
        """
        with self._lock:
            return {
                "entries": len(self._entries), "bytes": self._bytes, "limit_bytes": self._limit,
                "hits": self._hits, "misses": self._misses, "evictions": self._evictions,
                "miss_seconds": self._seconds, "longest_miss_seconds": self._longest,
            }  # fmt: skip
