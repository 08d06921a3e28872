"""Accept connections, balanced over the processes by their number of connections.

All processes poll the same listening socket. On an idle machine mostly the same one would win, so that the few connections of a load
balancer would all end in one process. So a process that has more connections than another one waits for a moment, and accepts only if no
other process did, because they are busy or gone.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

__all__ = ["Accepting", "Counts"]

AT_ONCE = 64
"""Most connections accepted in one iteration of the loop."""
LEAVE_SECONDS = 0.002
"""How long a process leaves new connections to others."""
PART = 8
"""A process may have 1 / ``PART`` more connections than another, so that bursts of hundreds are not accepted strictly in turns."""
NO_FILES_SECONDS = 0.05
"""Pause when no file descriptor is free."""


class Counts(Protocol):
    """The number of connections of each process."""

    @property
    def fewest(self) -> int:
        """The smallest number of any live process."""

    def tell(self, count: int, /) -> None:
        """Set the number of this process."""


class Accepting:
    """Accepts connections in an event loop.

    Args:
        listener: The listening socket.
        connect: Handles a new connection; it owns the socket, also when it fails.
        connected: Returns the number of open connections.
        counts: The numbers of all processes; None for a single process.
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
        """Stop accepting."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def tell(self) -> None:
        """Publish the number of this process's connections, including those in a TLS handshake."""
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
        """Accept one connection. Returns whether there was one."""
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as problem:
            if problem.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            self._pause(NO_FILES_SECONDS)  # the socket stays readable: without a pause the loop would spin
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
            connecting.exception()  # mark it as retrieved: a failed TLS handshake is not worth a log line
        self.tell()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._again)

    def _again(self) -> None:
        if self._open:
            self._loop.add_reader(self._listener, self._look)
            self._accept()
