"""Loaded and unloaded tasks: all tasks of the bundle answer, except those that an administrator has unloaded.

The unloaded tasks are kept in the store, and cached: other processes notice a change after at most ``SECONDS``. While the store does not
answer, the cached state is used, because base signatures do not need the store.
"""

from __future__ import annotations

import logging
import threading
import time

from isoform.runtime.errors import StoreError
from isoform.runtime.runtime import Runtime
from isoform.server.exchange.problems import NotFoundError
from isoform.server.service.unloaded import Unloaded
from isoform.server.store.store import Store

__all__ = ["Availability"]

SECONDS = 1.0
"""How long the state is cached."""
PATIENCE_SECONDS = 0.5
"""How long a prediction waits for a store that hangs."""

log = logging.getLogger("isoform.server")


class Availability:
    """The loaded and unloaded tasks of a bundle. Safe to use from several threads.

    Args:
        runtime: The open runtime.
        store: The store that keeps the state; None to keep it in memory.
        shared: The last known state, shared by the processes of this server.
    """

    def __init__(self, runtime: Runtime, store: Store | None, shared: Unloaded) -> None:
        self._runtime, self._store, self._shared = runtime, store, shared
        self._unloaded, self._read = shared.get(), -SECONDS
        self._lock, self._asking, self._changes = threading.Lock(), threading.Lock(), 0

    @property
    def at_hand(self) -> bool:
        """Whether ``unloaded`` and ``check`` can run without blocking on the store."""
        # Locked while another thread asks the store: this one would use the cached state without waiting.
        return self._store is None or time.monotonic() - self._read <= SECONDS or self._asking.locked()

    @property
    def unloaded(self) -> frozenset[str]:
        """Unloaded tasks. One thread refreshes the cache; others meanwhile get the cached state."""
        store = self._store
        if store is None or self.at_hand or not self._asking.acquire(blocking=False):
            return self._unloaded
        try:
            changes = self._changes
            try:
                found = frozenset(store.within(PATIENCE_SECONDS, store.unloaded))
            except StoreError as problem:
                log.error("%s; unloaded tasks stay unloaded", problem)
            else:
                with self._lock:
                    if changes == self._changes:  # else ``set_loaded`` ran during the query, and its result is newer
                        # Only what differs: for other tasks the shared state may be newer than this process's.
                        for task in found ^ self._unloaded:
                            self._shared.set(task, unloaded=task in found)
                        self._unloaded = found
            self._read = time.monotonic()  # after a failure too, so that not every request waits for the store
        finally:
            self._asking.release()
        return self._unloaded

    def check(self, task: str) -> None:
        """Raise ``NotFoundError`` if the task does not exist or is unloaded."""
        self.check_known(task)
        if task in self.unloaded:
            raise NotFoundError(f"task {task!r} is unloaded; load it by POST /v2/repository/models/{task}/load")

    def set_loaded(self, task: str, *, loaded: bool, actor: str) -> None:
        """Load or unload a task; unloading evicts its base signature's weights. Raises ``NotFoundError`` if the task does not exist."""
        self.check_known(task)
        if self._store is not None:
            # The store first: if it fails, the caller gets an error and nothing has changed.
            self._store.set_loaded(task, loaded=loaded, actor=actor)
        with self._lock:
            self._changes += 1
            self._unloaded = self._unloaded - {task} if loaded else self._unloaded | {task}
            self._shared.set(task, unloaded=not loaded)
        if not loaded:
            self._runtime.forget(self._runtime.signature(task))

    def check_known(self, task: str) -> None:
        """Raise ``NotFoundError`` if the task does not exist."""
        if task not in self._runtime.tasks:
            raise NotFoundError(f"there is no task {task!r}; the tasks are {', '.join(self._runtime.tasks)}")
