"""Users' weights on the device: a table with a row per user, the least recently used row for the next one that has none."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import EngineError

__all__ = ["Device", "Memory", "Replayed", "Rows"]


class Memory(Protocol):
    """Memory of a device, or of the host that a device copies from and to."""

    @property
    def address(self) -> int:
        """Its address."""

    def close(self) -> None:
        """Free it."""


class Replayed(Protocol):
    """Captured work."""

    def launch(self) -> None:
        """Run it."""

    def close(self) -> None:
        """Free it."""


class Device(Protocol):
    """What engines need of a device; ``cuda.Device`` is one."""

    def memory(self, nbytes: int) -> Memory:
        """Allocate memory of the device."""

    def pinned(self, shape: tuple[int, ...], dtype: object) -> tuple[Array, Memory]:
        """Allocate host memory that the device copies from and to."""

    def copy_in(self, address: int, source: int, nbytes: int) -> None:
        """Copy pinned host memory to the device."""

    def copy_out(self, target: int, address: int, nbytes: int) -> None:
        """Copy memory of the device to pinned host memory."""

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy memory within the device."""

    def synchronize(self) -> None:
        """Wait for all copies."""

    def captured(self, work: Callable[[], None]) -> Replayed:
        """Capture what a function puts on the stream. Raises ``EngineError`` if it cannot be captured."""


class Rows:
    """The table. Not thread-safe: the engine's lock is held.

    Args:
        device: The device.
        size: Numbers per row, M.
        half: Whether they are float16.
        limit_bytes: Size of the table; at least one row.
    """

    def __init__(self, device: Device, *, size: int, half: bool, limit_bytes: int) -> None:
        self.row_bytes = size * (2 if half else 4)
        self.count = max(1, limit_bytes // self.row_bytes)
        self._device, self._limit = device, limit_bytes
        self._staging, self._staged = device.pinned((size,), np.float16 if half else np.float32)
        try:
            self._table = device.memory(self.count * self.row_bytes)
        except EngineError as problem:
            self._staged.close()
            raise EngineError(
                f"{problem}; {self.count:,} users of {self.row_bytes:,} bytes were to fit on the GPU: lower cache_bytes"
            ) from None
        self._places: OrderedDict[str, int] = OrderedDict()
        self._hits = self._misses = self._evictions = 0
        self._seconds = self._longest = 0.0

    @property
    def address(self) -> int:
        """Address of the table."""
        return self._table.address

    def address_of(self, row: int) -> int:
        """Return the address of a row."""
        return self.address + row * self.row_bytes

    def rows(self, users: Mapping[str, Callable[[], Array]]) -> list[int]:
        """Return a row for each of some users; copy in those that have none.

        Args:
            users: Digest of the signature → makes its vector, shape (M,), float32. At most ``count``.

        Raises:
            EngineError: If there are more users than rows.
        """
        if len(users) > self.count:
            raise EngineError(f"{len(users)} users in one run, but the GPU has room for {self.count}")
        for digest in users:  # first: a user of this call must not make room for another one
            if digest in self._places:
                self._places.move_to_end(digest)
        found = []
        for digest, make in users.items():
            if digest in self._places:
                self._hits += 1
            else:
                self._copy_in(digest, make)
            found.append(self._places[digest])
        return found

    def _copy_in(self, digest: str, make: Callable[[], Array]) -> None:
        started = time.perf_counter()
        vector = make()
        self._device.synchronize()  # the last copy from this memory may not be done
        if self._staging.dtype == np.float16:  # cut off, as the constants of the graph are
            limit = float(np.finfo(np.float16).max)
            vector = np.clip(vector, -limit, limit)
        self._staging[:] = vector
        if len(self._places) < self.count:
            row = self._free_row()
        else:
            _, row = self._places.popitem(last=False)
            self._evictions += 1
        self._device.copy_in(self.address_of(row), self._staged.address, self.row_bytes)
        self._places[digest] = row
        seconds = time.perf_counter() - started
        self._misses += 1
        self._seconds += seconds
        self._longest = max(self._longest, seconds)

    def _free_row(self) -> int:
        # rows are given away in order, and come back by ``forget`` alone
        used = {*self._places.values()}
        return len(used) if len(used) not in used else next(row for row in range(self.count) if row not in used)

    def forget(self, digest: str) -> None:
        """Remove a user."""
        self._places.pop(digest, None)

    def clear(self) -> None:
        """Remove all users; counters are kept."""
        self._places.clear()

    def close(self) -> None:
        """Free the table."""
        self._table.close()
        self._staged.close()

    def stats(self) -> dict[str, float]:
        """Return what ``Cache.stats`` returns."""
        return {
            "entries": len(self._places), "bytes": len(self._places) * self.row_bytes, "limit_bytes": self._limit,
            "hits": self._hits, "misses": self._misses, "evictions": self._evictions,
            "miss_seconds": self._seconds, "longest_miss_seconds": self._longest,
        }  # fmt: skip
