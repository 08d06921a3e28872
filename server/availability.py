"""Which tasks answer: all of the bundle's, but those that somebody unloaded until somebody loads them again.

Kept in the store where there is one, so that every process knows; one that did not do it itself, after at most ``SECONDS``.
"""

from __future__ import annotations

import time

from isoform.runtime.runtime import Runtime
from isoform.server.problems import NotFoundError
from isoform.server.store.store import Store

__all__ = ["Availability"]

SECONDS = 1.0


class Availability:
    """Of the tasks of one bundle. Safe to use from several threads."""

    def __init__(self, runtime: Runtime, store: Store | None) -> None:
        self._runtime, self._store = runtime, store
        self._unloaded, self._read = frozenset[str](), -SECONDS

    @property
    def unloaded(self) -> frozenset[str]:
        """Tasks that do not answer."""
        if self._store is not None and time.monotonic() - self._read > SECONDS:
            self._unloaded, self._read = frozenset(self._store.unloaded()), time.monotonic()
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
        self._unloaded = self._unloaded - {task} if loaded else self._unloaded | {task}
        if not loaded:
            self._runtime.forget(self._runtime.signature(task))

    def _check_known(self, task: str) -> None:
        if task not in self._runtime.tasks:
            raise NotFoundError(f"there is no task {task!r}; there are {', '.join(self._runtime.tasks)}")
