"""Which tasks answer: all of the bundle's, but those that somebody unloaded until somebody loads them again.

Kept in the store where there is one, so that every process knows; one that did not do it itself, after at most ``SECONDS``. While the
store does not answer, what was known last holds: base signatures need nothing of it.
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
PATIENCE_SECONDS = 0.5
"""Predictions wait no longer for a store that hangs."""

log = logging.getLogger("isoform.server")


class Availability:
    """Of the tasks of one bundle. Safe to use from several threads.

    Args:
        runtime: The open runtime.
        store: Where it is kept; None to keep it in memory.
        shared: What the processes of this server knew last.
    """

    def __init__(self, runtime: Runtime, store: Store | None, shared: Unloaded) -> None:
        self._runtime, self._store, self._shared = runtime, store, shared
        self._unloaded, self._read = shared.get(), -SECONDS
        self._lock, self._asking, self._changes = threading.Lock(), threading.Lock(), 0

    @property
    def at_hand(self) -> bool:
        """Whether ``unloaded`` and ``check`` would wait for nothing."""
        return self._store is None or time.monotonic() - self._read <= SECONDS or self._asking.locked()

    @property
    def unloaded(self) -> frozenset[str]:
        """Tasks that do not answer. One thread asks the store for them; others meanwhile get what was known last."""
        store = self._store
        if store is None or self.at_hand or not self._asking.acquire(blocking=False):
            return self._unloaded
        try:
            changes = self._changes
            try:
                found = frozenset(store.within(PATIENCE_SECONDS, store.unloaded))
            except StoreError as problem:
                log.error("%s; the tasks that were unloaded before stay so", problem)
            else:
                with self._lock:
                    if changes == self._changes:  # else something was changed here meanwhile, and is known better
                        # Of those that did not change here, other processes may know better.
                        for task in found ^ self._unloaded:
                            self._shared.set(task, unloaded=task in found)
                        self._unloaded = found
            self._read = time.monotonic()
        finally:
            self._asking.release()
        return self._unloaded

    def check(self, task: str) -> None:
        """Raise ``NotFoundError`` if there is no such task, or it is unloaded."""
        self.check_known(task)
        if task in self.unloaded:
            raise NotFoundError(f"task {task!r} is unloaded; load it by POST /v2/repository/models/{task}/load")

    def set_loaded(self, task: str, *, loaded: bool, actor: str) -> None:
        """Let a task answer, or not; what its base signature held in memory goes. Raises ``NotFoundError`` if there is no such task."""
        self.check_known(task)
        if self._store is not None:
            self._store.set_loaded(task, loaded=loaded, actor=actor)
        with self._lock:
            self._changes += 1
            self._unloaded = self._unloaded - {task} if loaded else self._unloaded | {task}
            self._shared.set(task, unloaded=not loaded)
        if not loaded:
            self._runtime.forget(self._runtime.signature(task))

    def check_known(self, task: str) -> None:
        """Raise ``NotFoundError`` if there is no such task."""
        if task not in self._runtime.tasks:
            raise NotFoundError(f"there is no task {task!r}; there are {', '.join(self._runtime.tasks)}")
