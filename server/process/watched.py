"""uvicorn's protocol, extended to report what a connection's bytes belong to, how many requests they hold, and how the connection ends.

asyncio passes bytes to ``data_received``; the parser calls ``on_message_begin`` and the like while it reads them. ``_Transport`` wraps
asyncio's transport for uvicorn, because closing a connection while its client still sends would lose the answer.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from isoform.server.clients.connections import Connection, Connections
from isoform.server.http.asgi import CONNECTION, FIELDS

__all__ = ["watched"]

PIECE_BYTES = 8 << 10
"""Bytes parsed at a time, so that a connection never holds many more requests than ``QUEUED``."""
BODY_BYTES = 64 << 10
"""Bytes parsed at a time within a body."""
QUEUED = 16
"""Most pipelined requests of a connection that are queued; the rest stays unparsed."""

MOST_FIELDS = 16 * FIELDS
"""A complete head with more than ``FIELDS`` headers is refused with 431; above this number the connection is closed."""


class _Transport:
    """A wrapper of asyncio's transport, for uvicorn."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport, self._connection = transport, connection
        self._paused = self._held = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write data, unless the connection is closing."""
        if not self.is_closing():
            self._connection.answered = True
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection once the client has sent its request."""
        self._connection.leave()

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._connection.leaving or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Stop reading until ``resume_reading``."""
        self._paused = True
        self._let()

    def resume_reading(self) -> None:
        """Resume reading, unless held."""
        self._paused = False
        self._let()

    def hold(self, held: bool) -> None:
        """Stop or resume reading, independently of uvicorn's flow control."""
        if held != self._held:
            self._held = held
            self._let()

    def _let(self) -> None:
        if self.is_closing():
            return
        if self._paused or self._held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


def watched(protocol: type[asyncio.Protocol], connections: Connections) -> type[asyncio.Protocol]:
    """Derive a protocol class whose connections report to ``connections``.

    Args:
        protocol: uvicorn's httptools protocol; its keyword ``app_state`` becomes ``state`` in the scope of each request.
        connections: The connections of this process.
    """

    class Watched(protocol):  # type: ignore[misc, valid-type]
        def __init__(self, *, app_state: dict[str, Any], **others: Any) -> None:
            self._state = dict(app_state)  # a copy for each connection, to carry its ``Connection``
            super().__init__(app_state=self._state, **others)
            self._rest, self._used, self._fields = memoryview(b""), False, 0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            # uvloop's transport implements asyncio.Transport without deriving from it.
            stream = cast(asyncio.Transport, transport)
            self._connection = self._state[CONNECTION] = connections.add(stream, self._go_on, self._forget)
            self._through = _Transport(stream, self._connection)
            super().connection_made(self._through)

        def data_received(self, data: bytes) -> None:
            if self._connection.leaving:
                self._connection.heard = time.monotonic()
                return
            if not self._rest and len(data) <= PIECE_BYTES and self._connection.queued < QUEUED:
                self._feed(data)
                return
            self._rest = memoryview(bytes(self._rest) + data if self._rest else data)
            self._go_on()

        def _feed(self, piece: bytes | memoryview) -> None:
            self._used = False
            super().data_received(piece)
            self._connection.came(len(piece), used=self._used)

        def _go_on(self) -> None:
            """Parse what has arrived, piece by piece, while fewer than ``QUEUED`` requests are queued."""
            connection = self._connection
            while self._rest and connection.queued < QUEUED and not self._through.is_closing():
                size = BODY_BYTES if connection.in_body else PIECE_BYTES
                piece, self._rest = self._rest[:size], self._rest[size:]
                self._feed(piece)
            if self._through.is_closing() or not self._rest:
                self._rest = memoryview(b"")  # even an empty slice would keep the whole buffer alive
            connection.hold(len(self._rest))
            self._through.hold(len(self._rest) > 0)

        def _forget(self) -> None:
            """Free what has arrived now: it is in reference cycles, which the garbage collector frees late."""
            self._rest = memoryview(b"")
            self.pipeline.clear()
            if self.cycle is not None:
                self.cycle.body = bytearray()

        def eof_received(self) -> bool:
            super().eof_received()
            if self._connection.leaving:
                return False
            return self._connection.end_of_input()

        def connection_lost(self, exc: Exception | None) -> None:
            self._connection.lost()
            super().connection_lost(exc)
            self._forget()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle.response_complete:
                self.cycle.body = bytearray()  # an unread body would stay in memory until the next request

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._fields = 0
            self._connection.head_begins()

        def on_header(self, name: bytes, value: bytes) -> None:
            self._fields += 1
            # Not trailers, and only one header more than the application accepts, so that it can refuse.
            if self._connection.in_head and self._fields <= FIELDS + 1:
                super().on_header(name, value)
            elif self._fields > MOST_FIELDS:
                self._connection.drop()

        def on_headers_complete(self) -> None:
            self._used = True
            super().on_headers_complete()
            self._connection.head_is_complete()

        def on_body(self, body: bytes) -> None:
            self._used = True
            super().on_body(body)

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._connection.body_is_complete()

    return Watched
