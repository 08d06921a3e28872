"""The last known set of unloaded tasks: one byte per task, shared by all processes of a server.

The store has the authoritative set. A process starts with this copy, so that one restarted while the store does not answer refuses the
same tasks as the others.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection

__all__ = ["Unloaded"]


class Unloaded:
    """The unloaded tasks of a server. Create it before forking, so that all processes share the bytes.

    Args:
        tasks: All tasks of the bundle.
        unloaded: Tasks that are unloaded now.
    """

    def __init__(self, tasks: Collection[str], unloaded: Collection[str] = ()) -> None:
        self._places = {task: place for place, task in enumerate(tasks)}
        # A byte for each task: processes that change different tasks at the same moment need no lock.
        self._bytes = mmap.mmap(-1, len(self._places) + 1)  # one more, because an empty mapping is an error
        for task in unloaded:
            self.set(task, unloaded=True)

    def get(self) -> frozenset[str]:
        """The unloaded tasks, as last written by any process."""
        return frozenset(task for task, place in self._places.items() if self._bytes[place])

    def set(self, task: str, *, unloaded: bool) -> None:
        """Write the state of one task, and leave the others. Tasks that the bundle does not have are ignored."""
        if task in self._places:
            self._bytes[self._places[task]] = unloaded
