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
from isoform.server.problems import NotFoundError
from isoform.server.store.store import Store

__all__ = ["Availability"]

SECONDS = 1.0
PATIENCE_SECONDS = 0.5
"""Predictions wait no longer for a store that hangs."""

log = logging.getLogger("isoform.server")


class Availability:
    """Of the tasks of one bundle. Safe to use from several threads."""

    def __init__(self, runtime: Runtime, store: Store | None) -> None:
        self._runtime, self._store = runtime, store
        self._unloaded, self._read = frozenset[str](), -SECONDS
        self._lock, self._changes = threading.Lock(), 0

    @property
    def unloaded(self) -> frozenset[str]:
        """Tasks that do not answer."""
        if self._store is None or time.monotonic() - self._read <= SECONDS:
            return self._unloaded
        with self._lock:
            if time.monotonic() - self._read <= SECONDS:  # another thread was faster
                return self._unloaded
            changes = self._changes
            try:
                found = frozenset(self._store.within(PATIENCE_SECONDS, self._store.unloaded))
            except StoreError as problem:
                log.error("%s; the tasks that were unloaded before stay so", problem)
                found = self._unloaded
            if changes == self._changes:  # else something was changed here meanwhile, and is known better
                self._unloaded = found
            self._read = time.monotonic()
        return self._unloaded

    def check(self, task: str) -> None:
        """Raise ``NotFoundError`` if there is no such task, or it is unloaded."""
        self._check_known(task)
        if task in self.unloaded:
            raise NotFoundError(f"task {task!r} is unloaded; load it by POST /v2/repository/models/{task}/load")

    def set_loaded(self, task: str, *, loaded: bool, actor: str) -> None:
        """Let a task answer, or not; what its base signature held in memory goes. Raises ``NotFoundError`` if there is no such task."""
        self._check_known(task)
        if self._store is not None:
            self._store.set_loaded(task, loaded=loaded, actor=actor)
        self._changes += 1
        self._unloaded = self._unloaded - {task} if loaded else self._unloaded | {task}
        if not loaded:
            self._runtime.forget(self._runtime.signature(task))

    def _check_known(self, task: str) -> None:
        if task not in self._runtime.tasks:
            raise NotFoundError(f"there is no task {task!r}; there are {', '.join(self._runtime.tasks)}")
