"""Connections that are silent in the middle of a head, send one without an end, do not end, or are too many: closed.

uvicorn waits for a head as long as it takes. This stands between a transport and uvicorn's protocol, as asyncio has both, and
knows from the application (``asgi.py``) when a request begins and ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

from isoform.server.http.asgi import CONNECTION

__all__ = ["Connections", "watched"]

HEAD_SECONDS = 15.0
"""A head has to be there by then, and what nobody reads of a body has to have come."""
HEAD_BYTES = 512 << 10
"""Of one request before it begins: a head, and as much of a body as comes before uvicorn stops reading."""
TOTAL_BYTES = 16 << 20
"""Of all such; above it whoever has sent more than ``SHORT_BYTES`` is closed."""
SHORT_BYTES = 16 << 10
CLOSE_SECONDS = 15.0
"""So long a client may take for the rest of what it is sent before its connection ends."""
SWEEP_SECONDS = 0.25
SWEPT = 32
"""So many are closed in one sweep: hundreds that were silent together would come back together, and others wait behind them."""


class Connection:
    """One."""

    def __init__(self, all_of_them: Connections, transport: asyncio.Transport) -> None:
        self._all, self.transport = all_of_them, transport
        self.since: float | None = time.monotonic()
        """Since when it is in the middle of something that nobody reads on purpose."""
        self.requests = self.size = 0
        self._told: Callable[[], object] | None = None
        self._ended = False
        """Whether the client has said that it sends nothing more."""

    def came(self, size: int) -> bool:
        """So many bytes came. Returns whether they may."""
        if self.requests:
            return True
        self.since = self.since or time.monotonic()
        self.size += size
        self._all.bytes += size
        return self.size <= (HEAD_BYTES if self._all.bytes <= TOTAL_BYTES else SHORT_BYTES)

    def end_of_input(self) -> bool:
        """The client sends nothing more. Returns whether it may wait for an answer, as ``nc -N`` does."""
        self._ended = True
        if self._told is not None:
            self._told()
        asyncio.get_running_loop().call_soon(self._close)  # a request whose head has come begins before that
        return self.transport.get_extra_info("sslcontext") is None  # TLS knows no half of a connection

    def begin(self, told: Callable[[], object]) -> None:
        """The application has a request, and is to be told if nothing more comes."""
        self.requests += 1
        self.since, self._told = None, told
        if self._ended:
            told()
        self._forget()
        self._all.idle.pop(self, None)

    def end(self, *, complete: bool) -> None:
        """The application has answered, and maybe not read all."""
        self.requests -= 1
        if not self.requests:
            self.since, self._told = None if complete else time.monotonic(), None
            self._all.idle[self] = None
            if self._ended:
                asyncio.get_running_loop().call_soon(self._close)

    def lost(self) -> None:
        """It is closed."""
        self._forget()
        self._all.open.pop(self, None)
        self._all.idle.pop(self, None)
        self._all.changed()

    def _close(self) -> None:
        if not self.requests:
            self.transport.close()

    def _forget(self) -> None:
        self._all.bytes -= self.size
        self.size = 0


class Connections:
    """All of one process. For its loop alone.

    Args:
        most: At most so many at the same time; the one that has had nothing to do for longest is closed for a new one.
    """

    def __init__(self, most: int) -> None:
        self._most, self.bytes = most, 0
        self.open = dict[Connection, float]()
        """Connection → when it was first seen closing; 0 before."""
        self.idle = dict[Connection, None]()  # in the order in which they became so
        self.changed: Callable[[], object] = lambda: None
        """Called when there is one less."""
        self._sweeping = False

    def add(self, transport: asyncio.Transport) -> Connection:
        """A new one."""
        if len(self.open) >= self._most and self.idle:
            next(iter(self.idle)).transport.abort()
        connection = Connection(self, transport)
        self.open[connection] = 0.0
        self.idle[connection] = None
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        return connection

    def _sweep(self) -> None:
        now, silent = time.monotonic(), 0
        for connection, closing in list(self.open.items()):
            if connection.since is not None and now - connection.since > HEAD_SECONDS:
                if silent < SWEPT:
                    connection.transport.abort()
                silent += 1
            elif connection.transport.is_closing():
                self.open[connection] = closing or now
                if closing and now - closing > CLOSE_SECONDS:
                    connection.transport.abort()
        asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)


def watched(protocol: type[asyncio.Protocol], connections: Connections) -> type[asyncio.Protocol]:
    """A server's protocol, whose connections are watched.

    Args:
        protocol: Its class; its keyword ``app_state`` is what each request finds in its scope's ``state``.
        connections: Where they are watched.
    """

    class Watched(protocol):  # type: ignore[misc, valid-type]
        def __init__(self, *, app_state: dict[str, Any], **others: Any) -> None:
            self._state = dict(app_state)
            super().__init__(app_state=self._state, **others)

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            # A stream's transport is an asyncio.Transport, even if uvloop's does not say so.
            self._connection = self._state[CONNECTION] = connections.add(cast(asyncio.Transport, transport))
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            if self._connection.came(len(data)):
                super().data_received(data)
            else:
                self._connection.transport.abort()

        def eof_received(self) -> bool:
            super().eof_received()
            return self._connection.end_of_input()

        def connection_lost(self, exc: Exception | None) -> None:
            self._connection.lost()
            super().connection_lost(exc)

    return Watched
