"""Tasks that are known to be unloaded: a byte for each, shared by all processes of a server.

The store says which tasks these are; this is what a process starts with, so that one that is started again while the store does not
answer refuses the same tasks as the others.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection

__all__ = ["Unloaded"]


class Unloaded:
    """Tasks of one server. Made before it forks, so that every process sees the same bytes.

    Args:
        tasks: Every task of the bundle.
        unloaded: Those that do not answer now.
    """

    def __init__(self, tasks: Collection[str], unloaded: Collection[str] = ()) -> None:
        self._places = {task: place for place, task in enumerate(tasks)}
        self._bytes = mmap.mmap(-1, len(self._places) + 1)
        for task in unloaded:
            self.set(task, unloaded=True)

    def get(self) -> frozenset[str]:
        """Those that do not answer, as far as any process knew last."""
        return frozenset(task for task, place in self._places.items() if self._bytes[place])

    def set(self, task: str, *, unloaded: bool) -> None:
        """Say whether one does not answer; what other processes say of others stays. Nothing happens if the bundle has no such task."""
        if task in self._places:
            self._bytes[self._places[task]] = unloaded
