"""A client's socket, that nobody waits for without an end.

It never blocks in the kernel: whoever wants to wait waits by ``poll``, so that changing between both is no system call. A system call more
is little; but each lets another thread run first, and it may be a while until this one runs again.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable
from typing import Any

__all__ = ["RATE", "STALL_SECONDS", "ClientSocket"]

STALL_SECONDS = 15.0
"""So long a client may pause while a thread waits for it."""
RATE = 4096
"""Bytes a second that are fast enough to have it waited for longer."""
SEND_SECONDS = 60.0


class ClientSocket(socket.socket):
    """Takes an accepted socket over."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(fileno=accepted.detach())
        super().setblocking(False)
        self._patience: float | None = 0.0
        self._deadline = 0.0
        self._held: bytes | None = None
        self._hurried = False
        self.unsent = bytearray()
        """What could not be sent at once while ``hurry`` was on."""
        self._waiting = list[Callable[[], object]]()
        """What is called once that is sent."""

    def setblocking(self, flag: bool, /) -> None:
        """Whoever wants to wait begins to now."""
        self.settimeout(None if flag else 0.0)

    def settimeout(self, value: float | None, /) -> None:
        """As any socket's; None is ``STALL_SECONDS``, and more for who sends fast enough."""
        self._patience = value
        self._deadline = time.monotonic() + (STALL_SECONDS if value is None else value)

    def gettimeout(self) -> float | None:
        """As it was set."""
        return self._patience

    def hurry(self, flag: bool, /) -> None:
        """While it is on, nothing waits: reading fails instead, and what cannot be sent is kept in ``unsent``."""
        self._hurried = flag

    def hold(self) -> None:
        """The next ``sendall`` waits for the one after it: a head and a body in one packet."""
        if not self._held:
            self._held = b""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Raises ``ConnectionResetError`` when the client is too slow, as if it had gone; ``TimeoutError`` where a timeout was set."""
        while True:
            try:
                found = super().recv(size, flags)
            except BlockingIOError:
                if self._patience == 0.0:
                    raise
                if self._hurried or not self._ready(select.POLLIN, self._deadline):
                    if self._patience is not None:
                        raise TimeoutError("timed out") from None
                    raise ConnectionResetError(errno.ECONNRESET, "the client sends too slowly") from None
            else:
                if self._patience is None:
                    self._deadline = min(self._deadline + len(found) / RATE, time.monotonic() + STALL_SECONDS)
                return found

    def take(self, size: int, /) -> bytes | None:
        """What has come: no bytes if the client is gone, None if nothing has yet. For whoever does not wait."""
        try:
            return self.recv(size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Raises ``ConnectionResetError`` when the client does not take it."""
        if self._held is not None:
            if not self._held:
                self._held = bytes(data)
                return
            data, self._held = self._held + bytes(data), None
        if self.unsent:
            self.unsent += data
            return
        rest, end = memoryview(data), 0.0
        while rest:
            try:
                rest = rest[self.send(rest, flags) :]
            except BlockingIOError:
                if self._hurried:
                    self.unsent += rest
                    return
                end = end or time.monotonic() + (self._patience or SEND_SECONDS)
                if not self._ready(select.POLLOUT, end):
                    raise ConnectionResetError(errno.ECONNRESET, "the client does not take its answer") from None

    def send_rest(self) -> None:
        """Send what is unsent. Raises ``ConnectionResetError`` when the client does not take it."""
        rest, self.unsent = bytes(self.unsent), bytearray()
        try:
            self.sendall(rest)
        finally:
            calls, self._waiting = self._waiting, []
            for call in calls:
                call()

    def when_sent(self, call: Callable[[], object], /) -> None:
        """Call something once nothing is unsent, or the client takes no more: at once, or by ``send_rest``."""
        if self.unsent:
            self._waiting.append(call)
        else:
            call()

    def _ready(self, event: int, end: float) -> bool:
        poll = select.poll()
        poll.register(self, event)
        return bool(poll.poll(max(0.0, 1e3 * (end - time.monotonic()))))
