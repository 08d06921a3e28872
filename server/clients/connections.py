"""Track the connections of a process and close those with a silent or endless head, those that linger, and those beyond the limit.

uvicorn itself waits for a head without a deadline and buffers what arrives. ``watched.py`` reports here what the bytes of a connection
belong to, and ``http/asgi.py`` when a request begins and ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["HEAD_BYTES", "HEAD_SECONDS", "TOTAL_BYTES", "Connection", "Connections"]

HEAD_SECONDS = 15.0
"""Deadline for a complete head, and for the rest of a body that is discarded."""
HEAD_BYTES = 64 << 10
"""Most bytes of one connection that are neither a complete head nor part of a body."""
REQUEST_BYTES = 4096
"""Size at which a pipelined request counts that is queued behind another one of its connection."""
TOTAL_BYTES = 16 << 20
"""Limit for all connections on such bytes, queued requests and unparsed bytes; above it the connection that has had them longest is closed."""
CLOSE_SECONDS = 15.0
"""How long a closing connection may take to drain its send buffer."""
PAUSE_SECONDS = 3.0
"""How long a closing connection may stay silent before the rest of its request has arrived."""
SWEEP_SECONDS = 0.25
"""Interval of sweeps for late connections."""
SWEPT = 32
"""Most connections closed in one sweep: hundreds of clients closed together would reconnect together, ahead of others."""


def _nothing() -> None:
    pass


class Connection:
    """The state of one connection.

    Args:
        all_of_them: The connections of the process.
        transport: asyncio's transport.
        go_on: Called when a request has ended, to parse more of what has arrived.
        forget: Called when what has arrived is no longer needed, to free it.
    """

    def __init__(
        self, all_of_them: Connections, transport: asyncio.Transport, go_on: Callable[[], object] = _nothing,
        forget: Callable[[], object] = _nothing,
    ) -> None:  # fmt: skip
        self._all, self.transport, self._go_on, self._forget = all_of_them, transport, go_on, forget
        self.since: float | None = time.monotonic()
        """Start of the wait for a head or for the rest of a discarded body; None if the client owes nothing."""
        self.requests = self.queued = 0
        """Requests in the application; pipelined requests queued behind them."""
        self.unused = self.held = self.size = 0
        """Bytes of an incomplete head; bytes not parsed yet; what counts for both and for queued requests."""
        self.in_head = self.in_body = self.leaving = False
        """Part of a request that is being received; whether the connection closes once the client has sent the rest or falls silent."""
        self.answered = False
        """Whether anything was sent since the latest request began."""
        self.heard = time.monotonic()
        """When a closing connection last received something."""
        self.gathers, self.gathered = False, list[bytes]()
        """Whether writes are buffered, and the buffered writes."""
        self._told: Callable[[], object] | None = None
        self._ended = False
        """Whether the client has half-closed the connection."""

    def head_begins(self) -> None:
        """Note the first byte of a request."""
        self.in_head, self.answered = True, False
        if not (self.requests or self.queued):
            self.since = time.monotonic()

    def head_is_complete(self) -> None:
        """Note a complete head: the request is queued behind those before it."""
        self.in_head, self.in_body, self.since = False, True, None
        self.queued += 1
        self.use()

    def body_is_complete(self) -> None:
        """Note the end of a request."""
        self.in_body = False
        if not (self.requests or self.queued):  # answered before its body was complete
            self.since = None
            self._is_idle()

    def came(self, size: int, *, used: bool) -> None:
        """Count received bytes, and close this connection or others if they exceed a limit.

        Args:
            size: Number of bytes.
            used: Whether they contained the end of a head, or part of a body.
        """
        # An endless head, chunk extension or trailer only grows ``unused``; any progress resets it.
        if self.in_head or (self.in_body and not used):
            self.unused = size + (0 if used else self.unused)
        else:
            self.unused = 0
        self._count()
        if self.unused > HEAD_BYTES:
            self.drop()
        self._all.make_room()

    def hold(self, size: int) -> None:
        """Count bytes that stay unparsed until fewer requests are queued."""
        if size != self.held:
            self.held = size
            self._count()
            self._all.make_room()

    def use(self) -> None:
        """Note progress: the received bytes were part of a request."""
        self.unused = 0
        self._count()

    def gather(self) -> None:
        """Buffer writes until ``flush``, so that a head and a short body are one system call and one packet."""
        self.gathers = True

    def flush(self) -> None:
        """Write what was buffered."""
        self.gathers = False
        if self.gathered:
            data = b"".join(self.gathered)
            self.gathered.clear()
            if not self.transport.is_closing():
                self.transport.write(data)

    def end_of_input(self) -> bool:
        """Note that the client half-closed the connection. Returns whether to keep it open for an answer, as ``nc -N`` expects."""
        self._ended = True
        if self._told is not None:
            self._told()
        asyncio.get_running_loop().call_soon(self._close)  # later: a request whose head is complete begins first
        return (
            self.transport.get_extra_info("sslcontext") is None
        )  # asyncio's TLS does not support half-closed connections

    def begin(self, told: Callable[[], object]) -> None:
        """Note that the application has a request; ``told`` is called when the client stops sending."""
        self.requests += 1
        self.queued = max(0, self.queued - 1)  # 0 if the connection was closed meanwhile
        self.since, self._told = None, told
        self._count()
        if self._ended:
            told()
        self._all.idle.pop(self, None)

    def end(self) -> None:
        """Note that the application has answered."""
        self.requests -= 1
        if not self.requests:
            self._told = None
            self._is_idle()
            if (self.in_head or self.in_body) and not (self.queued or self.leaving):
                self.since = time.monotonic()
            if self._ended or self.held:
                asyncio.get_running_loop().call_soon(self._close if self._ended else self._go_on)

    def leave(self) -> None:
        """Close the connection, but only after the client has sent its request: otherwise the kernel sends a reset, and the answer is lost."""
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
        # Half-close: the client sees the end of the answer, while what it still sends is read and discarded.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()

    def is_late(self, now: float) -> bool:
        """Whether bytes that the client owes did not arrive in time."""
        silent = self.leaving and now - self.heard > PAUSE_SECONDS
        return silent or (self.since is not None and now - self.since > HEAD_SECONDS)

    def drop(self) -> None:
        """Close the connection at once."""
        self.lost()
        self.transport.abort()
        self._forget()

    def lost(self) -> None:
        """Note that the connection is closed, and stop counting it."""
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
    """All connections of one process. Used from its event loop only.

    Args:
        most: Most open connections; above it the one that is idle for longest is closed for a new one.
        keep_alive_seconds: How long a connection may be idle.
    """

    def __init__(self, most: int, *, keep_alive_seconds: float) -> None:
        self._most, self._keep_alive, self.bytes = most, keep_alive_seconds, 0
        self.open = dict[Connection, float]()
        """Open connection → when it was first seen closing; 0 before."""
        self.idle = dict[Connection, float]()
        """Idle connection → since when; the oldest first."""
        self.waiting = dict[Connection, None]()
        """Connections whose bytes count; the oldest first."""
        self.changed: Callable[[], object] = _nothing
        """Called when a connection was closed."""
        self._sweeping = False

    def add(
        self, transport: asyncio.Transport, go_on: Callable[[], object] = _nothing, forget: Callable[[], object] = _nothing
    ) -> Connection:  # fmt: skip
        """Track a new connection, with the arguments of ``Connection``. It is closed at once if the limit is reached and none is idle."""
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
        """Close connections, the oldest first, until the counted bytes are within ``TOTAL_BYTES``."""
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
            # uvicorn's own timer does not run after a discarded body.
            elif now - self.idle.get(connection, now) > self._keep_alive:
                transport.close()
        asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
