"""Connections of one process, and which of them to close: a silent or endless head, one that does not end, too many at once.

uvicorn waits for a head as long as it takes, and keeps what has come. ``watched.py`` reports here what a connection's bytes are, and
``http/asgi.py`` when a request begins and ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["HEAD_BYTES", "HEAD_SECONDS", "TOTAL_BYTES", "Connection", "Connections"]

HEAD_SECONDS = 15.0
"""A head has to be there by then, and so has the rest of a body that nobody reads."""
HEAD_BYTES = 64 << 10
"""Of one connection: what has come and is neither a whole head nor part of a body."""
REQUEST_BYTES = 4096
"""What a request counts that has come and waits behind another one of its connection (pipelining)."""
TOTAL_BYTES = 16 << 20
"""Of both, and of what is not looked at yet, of all connections; above it the one that has had such bytes for longest is closed."""
CLOSE_SECONDS = 15.0
"""How long a client may take for the rest of what it is sent before its connection ends."""
PAUSE_SECONDS = 3.0
"""How long a client that is closed may send nothing of the rest of its request."""
SWEEP_SECONDS = 0.25
SWEPT = 32
"""So many are closed in one sweep: hundreds that were silent together would come back together, and others wait behind them."""


def _nothing() -> None:
    pass


class Connection:
    """One connection.

    Args:
        all_of_them: Those of the process.
        transport: asyncio's.
        go_on: Called when a request has ended.
        forget: Called when nobody wants any longer what has come.
    """

    def __init__(
        self, all_of_them: Connections, transport: asyncio.Transport, go_on: Callable[[], object] = _nothing,
        forget: Callable[[], object] = _nothing,
    ) -> None:  # fmt: skip
        self._all, self.transport, self._go_on, self._forget = all_of_them, transport, go_on, forget
        self.since: float | None = time.monotonic()
        """When it began to wait for bytes that are due; None if none are."""
        self.requests = self.queued = 0
        """Requests that the application has; that wait behind those."""
        self.unused = self.held = self.size = 0
        """Bytes that are of no use yet; that nobody has looked at; what is counted for all of it."""
        self.in_head = self.in_body = self.leaving = False
        """In which part of a request its bytes are; and whether it is closed as soon as the client has sent all, or nothing more."""
        self.answered = False
        """Whether something was sent since the request began that came last."""
        self.heard = time.monotonic()
        """When something came last, of a connection that is to be closed."""
        self.gathers, self.gathered = False, list[bytes]()
        """Whether what is written is kept, and what was."""
        self._told: Callable[[], object] | None = None
        self._ended = False
        """Whether the client has said that it sends nothing more."""

    def head_begins(self) -> None:
        """The first byte of a request came."""
        self.in_head, self.answered = True, False
        if not (self.requests or self.queued):
            self.since = time.monotonic()

    def head_is_complete(self) -> None:
        """The application gets a request as soon as those before it are answered."""
        self.in_head, self.in_body, self.since = False, True, None
        self.queued += 1
        self.use()

    def body_is_complete(self) -> None:
        """All of a request has come."""
        self.in_body = False
        if not (self.requests or self.queued):  # nobody has read it
            self.since = None
            self._is_idle()

    def came(self, size: int, *, used: bool) -> None:
        """Count bytes that came; close this connection or others if those are too many.

        Args:
            size: How many.
            used: Whether they had the end of a head in them, or something of a body.
        """
        if self.in_head or (self.in_body and not used):
            self.unused = size + (0 if used else self.unused)
        else:
            self.unused = 0
        self._count()
        if self.unused > HEAD_BYTES:
            self.drop()
        self._all.make_room()

    def hold(self, size: int) -> None:
        """Count bytes that stay as they are until fewer requests wait."""
        if size != self.held:
            self.held = size
            self._count()
            self._all.make_room()

    def use(self) -> None:
        """What came is of use."""
        self.unused = 0
        self._count()

    def gather(self) -> None:
        """Keep what is written until ``flush``: a head and a short body are one system call then, and one packet."""
        self.gathers = True

    def flush(self) -> None:
        """Write what was gathered."""
        self.gathers = False
        if self.gathered:
            data = b"".join(self.gathered)
            self.gathered.clear()
            if not self.transport.is_closing():
                self.transport.write(data)

    def end_of_input(self) -> bool:
        """The client sends nothing more. Returns whether it may wait for an answer, as ``nc -N`` does."""
        self._ended = True
        if self._told is not None:
            self._told()
        asyncio.get_running_loop().call_soon(self._close)  # a request whose head has come begins before that
        return self.transport.get_extra_info("sslcontext") is None  # TLS has no half-closed connections

    def begin(self, told: Callable[[], object]) -> None:
        """The application has a request, and is to be told if nothing more comes."""
        self.requests += 1
        self.queued = max(0, self.queued - 1)  # it may be closed meanwhile
        self.since, self._told = None, told
        self._count()
        if self._ended:
            told()
        self._all.idle.pop(self, None)

    def end(self) -> None:
        """The application has answered."""
        self.requests -= 1
        if not self.requests:
            self._told = None
            self._is_idle()
            if (self.in_head or self.in_body) and not (self.queued or self.leaving):
                self.since = time.monotonic()
            if self._ended or self.held:
                asyncio.get_running_loop().call_soon(self._close if self._ended else self._go_on)

    def leave(self) -> None:
        """Close it, but not before the client has sent its request: else the system tells it of an error instead of the answer."""
        self.flush()
        sends = (self.in_head or self.in_body) and not self._ended
        if self.leaving or not (self.answered and sends) or self.transport.is_closing():
            self.transport.close()
            return
        self.leaving, self.unused, self.queued, self.held = True, 0, 0, 0
        self.since = self.heard = time.monotonic()
        self._count()
        self._forget()
        if self._told is not None:
            self._told()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()

    def is_late(self, now: float) -> bool:
        """Whether bytes that are due did not come in time."""
        silent = self.leaving and now - self.heard > PAUSE_SECONDS
        return silent or (self.since is not None and now - self.since > HEAD_SECONDS)

    def drop(self) -> None:
        """Close it now."""
        self.lost()
        self.transport.abort()
        self._forget()

    def lost(self) -> None:
        """It is closed, and counts no longer."""
        self._all.open.pop(self, None)
        self._all.idle.pop(self, None)
        self.unused = self.queued = self.held = 0
        self._count()
        self._all.changed()

    def _close(self) -> None:
        if not (self.requests or self.queued):
            self.transport.close()

    def _is_idle(self) -> None:
        self._all.idle.pop(self, None)
        if self in self._all.open:
            self._all.idle[self] = time.monotonic()

    def _count(self) -> None:
        size = self.unused + self.held + self.queued * REQUEST_BYTES if self in self._all.open else 0
        self._all.bytes += size - self.size
        self.size = size
        if size:
            self._all.waiting.setdefault(self)
        else:
            self._all.waiting.pop(self, None)


class Connections:
    """All of one process. For its loop alone.

    Args:
        most: At most so many at the same time; the one that has had nothing to do for longest is closed for a new one.
        keep_alive_seconds: How long one may have nothing to do.
    """

    def __init__(self, most: int, *, keep_alive_seconds: float) -> None:
        self._most, self._keep_alive, self.bytes = most, keep_alive_seconds, 0
        self.open = dict[Connection, float]()
        """Connection → when it was first seen closing; 0 before."""
        self.idle = dict[Connection, float]()
        """Connection without a request → since when; the oldest first."""
        self.waiting = dict[Connection, None]()
        """Those whose bytes are counted; the oldest first."""
        self.changed: Callable[[], object] = _nothing
        """Called when there is one less."""
        self._sweeping = False

    def add(
        self, transport: asyncio.Transport, go_on: Callable[[], object] = _nothing, forget: Callable[[], object] = _nothing
    ) -> Connection:  # fmt: skip
        """A new one, with ``Connection``'s arguments. Closed at once if there are too many, and all of them have requests."""
        connection = Connection(self, transport, go_on, forget)
        if len(self.open) >= self._most:
            next(iter(self.idle), connection).drop()
            if transport.is_closing():
                return connection
        self.open[connection] = 0.0
        self.idle[connection] = time.monotonic()
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        return connection

    def make_room(self) -> None:
        """Close connections until what is counted is no more than it may be."""
        while self.bytes > TOTAL_BYTES:
            next(iter(self.waiting)).drop()

    def _sweep(self) -> None:
        now, late = time.monotonic(), 0
        for connection, closing in list(self.open.items()):
            transport = connection.transport
            if connection.is_late(now):
                if late < SWEPT:
                    connection.drop()
                late += 1
            elif transport.is_closing():
                self.open[connection] = closing or now
                if closing and now - closing > CLOSE_SECONDS:
                    connection.drop()
            elif (
                now - self.idle.get(connection, now) > self._keep_alive
            ):  # uvicorn does not, after a body that it threw away
                transport.close()
        asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
