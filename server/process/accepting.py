"""Connections are taken by the process that has fewest of them.

All processes wait for the same socket, and whoever is faster would take a new connection: on an idle machine mostly the same one, so that
a balancer's few connections would all end in one process. Here a process that has more than others leaves it to them for a moment, and
takes it only if nobody did, because they are busy or gone.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

__all__ = ["Accepting", "Counts"]

AT_ONCE = 64
LEAVE_SECONDS = 0.002
PART = 8
"""A process may have an eighth more than another: hundreds of connections at once are not taken in turns."""
NO_FILES_SECONDS = 0.05


class Counts(Protocol):
    """How many connections the processes have."""

    @property
    def fewest(self) -> int:
        """Of a process that lives."""

    def tell(self, count: int, /) -> None:
        """So many has this one."""


class Accepting:
    """Takes connections, in an event loop.

    Args:
        listener: A socket that listens.
        connect: What is done with a connection; it owns the socket, also when it fails.
        connected: How many connections there are already.
        counts: Of all processes; None if there is one only.
    """

    def __init__(
        self, listener: socket.socket, connect: Callable[[socket.socket], Awaitable[object]], *,
        connected: Callable[[], int], counts: Counts | None,
    ) -> None:  # fmt: skip
        self._listener, self._connect, self._connected, self._counts = listener, connect, connected, counts
        self._connecting = set[asyncio.Future[object]]()
        self._loop, self._open = asyncio.get_running_loop(), True
        listener.setblocking(False)
        self._loop.add_reader(listener, self._look)
        self.tell()

    def close(self) -> None:
        """Take no more."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def tell(self) -> None:
        """Say how many this process has."""
        if self._counts is not None:
            self._counts.tell(self._connected() + len(self._connecting))

    def _look(self) -> None:
        for _ in range(AT_ONCE):
            if self._has_more_than_others():
                self._pause(LEAVE_SECONDS)
                return
            if not self._accept():
                return

    def _has_more_than_others(self) -> bool:
        if self._counts is None:
            return False
        fewest = self._counts.fewest
        return self._connected() + len(self._connecting) > fewest + fewest // PART

    def _accept(self) -> bool:
        """Take one. Returns whether there was one."""
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as problem:
            if problem.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            self._pause(NO_FILES_SECONDS)
            return False
        accepted.setblocking(False)
        if accepted.family != getattr(socket, "AF_UNIX", None):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connecting = asyncio.ensure_future(self._connect(accepted))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._done)
        self.tell()
        return True

    def _done(self, connecting: asyncio.Future[object]) -> None:
        self._connecting.discard(connecting)
        if not connecting.cancelled():
            connecting.exception()  # a client whose TLS came to nothing is no concern of ours
        self.tell()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._again)

    def _again(self) -> None:
        if self._open:
            self._loop.add_reader(self._listener, self._look)
            self._accept()
