"""Whether a server is about to stop: a byte that all its processes share.

Readiness goes off first, so that a balancer sends nothing more; requests that come nevertheless are answered until it stops.
"""

from __future__ import annotations

import mmap

__all__ = ["Draining"]


class Draining:
    """One server's. Made before it forks, so that every process sees the same byte."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    @property
    def begun(self) -> bool:
        """Whether it is about to stop."""
        return self._byte[0] != 0

    def begin(self) -> None:
        """It is."""
        self._byte[0] = 1
