"""What stays in memory: a cache of built things with a limit in bytes, the longest unused dropped first.

One thread builds an entry, others that want the same one wait for it. An entry that is in use elsewhere lives on until it is let
go there. Knows nothing of what it holds.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Cache"]

T = TypeVar("T")


class Cache(Generic[T]):
    """Entries by key. Safe to use from several threads.

    Args:
        limit_bytes: How many bytes may stay; the entry used last always does.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._entries: collections.OrderedDict[str, tuple[T, int]] = collections.OrderedDict()
        self._building: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._bytes = self._hits = self._misses = self._evictions = 0

    def get(self, key: str, build: Callable[[], tuple[T, int]]) -> T:
        """The entry of a key.

        Args:
            key: Whose entry.
            build: Makes the entry, and says how many bytes it takes; called only if it is not here. Its errors pass through.
        """
        with self._lock:
            if key in self._entries:
                self._hits += 1
                self._entries.move_to_end(key)
                return self._entries[key][0]
            building = self._building.setdefault(key, threading.Lock())
        with building:
            with self._lock:
                if key in self._entries:
                    self._hits += 1
                    return self._entries[key][0]
            try:
                entry, size = build()
                with self._lock:
                    self._misses += 1
                    self._entries[key] = entry, size
                    self._bytes += size
                    while len(self._entries) > 1 and self._bytes > self._limit:
                        self._bytes -= self._entries.popitem(last=False)[1][1]
                        self._evictions += 1
            finally:
                with self._lock:
                    if self._building.get(key) is building:
                        del self._building[key]
        return entry

    def clear(self) -> None:
        """Let go of every entry. Counts go on."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def stats(self) -> dict[str, int]:
        """``entries`` and ``bytes`` now; ``hits``, ``misses`` and ``evictions`` since the start."""
        with self._lock:
            return {
                "entries": len(self._entries), "bytes": self._bytes,
                "hits": self._hits, "misses": self._misses, "evictions": self._evictions,
            }  # fmt: skip
