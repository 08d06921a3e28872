"""The flag that a server is draining, shared by its processes.

Readiness turns to 503 first, so that a load balancer stops sending requests; those that still arrive are answered until the server stops.
"""

from __future__ import annotations

import mmap

__all__ = ["Draining"]


class Draining:
    """The draining flag of a server. Create it before forking, so that all processes share the byte."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)  # anonymous and shared: forked processes see the same memory

    @property
    def begun(self) -> bool:
        """Whether the server is draining."""
        return self._byte[0] != 0

    def begin(self) -> None:
        """Mark the server as draining."""
        self._byte[0] = 1
