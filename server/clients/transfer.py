"""Receive bodies and send answers, on the event loop, with deadlines for slow clients.

A client may not be silent for ``SILENT_SECONDS``, nor slower than ``RATE`` on average. When all transfers in flight exceed the memory
limit, the oldest is aborted: a client with a usual connection is done long before it is the oldest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from werkzeug.exceptions import RequestEntityTooLarge

from isoform.runtime.errors import InputError
from isoform.server.exchange.answer import Answer
from isoform.server.exchange.problems import BusyError, DeadlineError

__all__ = ["SHORT_BYTES", "Body", "Transfers"]

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SILENT_SECONDS = 15.0
"""Longest pause of a client within a transfer."""
RATE = 4096
"""Minimum average speed, in bytes per second."""
TOTAL_BYTES = 32 << 20
"""Limit on the size of all transfers in flight; more if the largest body is larger."""
SHORT_BYTES = 64 << 10
"""Bodies up to this size are read before the route runs, if they arrive with their head; answers up to it are sent in one part."""
SOON_SECONDS = 0.01
"""How long a short body is waited for before the route runs: it mostly arrives with its head."""


class _Transfer:
    """One body or answer in flight."""

    def __init__(self) -> None:
        self.size = 0
        self.data: bytes | bytearray = b""
        """The part of a body that has arrived, as one buffer: joining pieces at the end would need the memory twice."""
        self.given_up = self.ended = self.over = False
        self._loop = asyncio.get_running_loop()
        self.timeout = asyncio.timeout(SILENT_SECONDS)

    def moved(self, size: int) -> None:
        """Note progress of that many bytes, and extend the deadline accordingly."""
        # Earned at RATE, but never beyond SILENT_SECONDS from now: a fast start buys no long silence.
        if not (self.given_up or self.ended):
            self._until(min((self.timeout.when() or 0.0) + size / RATE, self._loop.time() + SILENT_SECONDS))

    def hurry(self) -> None:
        """Note that the client half-closed: read what has arrived, and wait for no more."""
        self.ended = True
        if not self.given_up:
            self._until(self._loop.time() + SOON_SECONDS)

    def give_up(self) -> None:
        """Abort the transfer where it waits, and free its data."""
        self.given_up, self.data, self.size = True, b"", 0
        self._until(self._loop.time())

    def _until(self, moment: float) -> None:
        if not (self.over or self.timeout.expired()):
            self.timeout.reschedule(moment)


class Transfers:
    """All transfers of one process. Used from its event loop only.

    Args:
        total: Size in bytes of the largest body, if that exceeds ``TOTAL_BYTES``. Above the limit the oldest transfers are aborted.
    """

    def __init__(self, total: int | None = None) -> None:
        self._total = TOTAL_BYTES if total is None else max(total, TOTAL_BYTES)
        self._under_way = dict[_Transfer, None]()  # a dict as an ordered set: the oldest transfer first
        self.bytes = 0

    @contextlib.asynccontextmanager
    async def _one(self) -> AsyncIterator[_Transfer]:
        transfer = _Transfer()
        try:
            async with transfer.timeout:
                try:
                    yield transfer
                finally:
                    transfer.over = True
        except TimeoutError:
            if transfer.given_up:
                raise BusyError(
                    "too many bytes of bodies and answers are in flight in this process; try again"
                ) from None
            if transfer.ended:
                raise InputError(f"the body is cut short after {transfer.size} bytes") from None
            raise DeadlineError(
                f"the client is too slow: silent for {SILENT_SECONDS:.0f} s, or below {RATE} bytes a second"
            ) from None
        finally:
            self.bytes -= transfer.size
            self._under_way.pop(transfer, None)

    def _grow(self, transfer: _Transfer, size: int) -> None:
        """Count bytes that a transfer holds in memory, and abort the oldest transfers if the total exceeds the limit."""
        transfer.size += size
        self.bytes += size
        self._under_way.setdefault(transfer)
        while self.bytes > self._total and self._under_way:
            oldest = next(iter(self._under_way))
            del self._under_way[oldest]
            self.bytes -= oldest.size
            oldest.give_up()

    async def receive(self, body: Body, receive: Receive, *, limit: int) -> bytes | bytearray:
        """Receive a whole body.

        Args:
            body: The body, which gets the transfer's state.
            receive: ASGI's ``receive``.
            limit: Largest body, in bytes.

        Raises:
            RequestEntityTooLarge: If the body exceeds the limit.
            InputError: If the client disconnects before the end.
            DeadlineError: If the client is silent or too slow.
            BusyError: If the transfer was aborted because too many bytes are in flight.
        """
        async with self._one() as transfer:
            body.transfer = transfer
            if body.ended:
                transfer.hurry()
            more = True
            while more or transfer.given_up:  # an aborted transfer waits here for its timeout, which is due at once
                more = self._take(transfer, await receive(), limit)
            body.held, transfer.size = transfer.size, 0
            data, transfer.data = transfer.data, b""  # drop this reference, so that the caller can free the body
        return data

    def _take(self, transfer: _Transfer, message: dict[str, Any], limit: int) -> bool:
        """Append an ASGI message to a body. Returns whether there is more."""
        if message["type"] != "http.request":  # http.disconnect
            raise InputError(f"the body is cut short after {transfer.size} bytes")
        if (part := message.get("body", b"")) and not transfer.given_up:
            if transfer.size == 0:
                transfer.data = part
            else:
                if isinstance(transfer.data, bytes):
                    transfer.data = bytearray(transfer.data)
                transfer.data += part
            self._grow(transfer, len(part))
            transfer.moved(len(part))
        if transfer.size > limit:
            raise RequestEntityTooLarge(f"the body exceeds this server's limit of {limit:,} bytes")
        return bool(message.get("more_body", False))

    async def send(self, send: Send, answer: Answer, fields: Iterable[tuple[str, str]]) -> None:
        """Send an answer; ``Answer.sent`` is called when the client has it, or the transfer fails. Raises as ``receive``."""
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.fields(*fields)]
        body, end = answer.body, len(answer.body)
        try:
            async with self._one() as transfer:
                await send({"type": "http.response.start", "status": answer.status, "headers": headers})
                if end > SHORT_BYTES:
                    self._grow(transfer, end)
                    for begin in range(0, end, SHORT_BYTES):
                        part = body[begin : begin + SHORT_BYTES]
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                        transfer.moved(len(part))
                    # The last, empty part is accepted only when most of the send buffer has drained.
                    body = b""
                await send({"type": "http.response.body", "body": body})
        finally:
            if answer.sent is not None:
                answer.sent()


class Body:
    """A request's body, received when it is asked for.

    Args:
        transfers: The transfers of this process.
        receive: ASGI's ``receive``.
        environ: The request's WSGI environment.
        limit: Largest body, in bytes.
    """

    def __init__(self, transfers: Transfers, receive: Receive, environ: dict[str, Any], *, limit: int) -> None:
        length = environ.get("CONTENT_LENGTH", "")
        self._length = int(length) if length.isascii() and length.isdigit() and len(length) < 13 else None
        self._none = self._length in (None, 0) and "HTTP_TRANSFER_ENCODING" not in environ
        self._asked = "HTTP_EXPECT" in environ  # the server sends 100 Continue at the first ``receive``
        self.comes_later = not self._none and (self._length is None or self._length > SHORT_BYTES or self._asked)
        """Whether the body is not expected to arrive together with the head."""
        self._transfers, self._receive, self._limit = transfers, receive, limit
        self._task: asyncio.Task[bytes | bytearray] | None = None
        self.transfer: _Transfer | None = None
        self.held = 0
        """Received bytes, which count as in flight until ``taken``, while the request waits for a thread."""
        self.ended = False
        """Whether the client has half-closed the connection."""
        self.complete = self._none

    @property
    def declined(self) -> bool:
        """Whether the client sent ``Expect: 100-continue`` and got no 100: then it is unknown whether the body will follow."""
        return self._asked and not self._none and self.transfer is None

    async def read(self) -> bytes | bytearray:
        """Receive the whole body. Raises as ``Transfers.receive``."""
        found = await (self._task or self._transfers.receive(self, self._receive, limit=self._limit))
        self.complete = True
        return found

    async def read_soon(self) -> bytes | bytearray | None:
        """The whole body, if it is short and arrives with its head; None if it is not complete yet, or receiving it failed."""
        if self._none:
            return b""
        if self._task is None and self.comes_later:
            return None
        if self._task is None:
            self._task = asyncio.ensure_future(self._transfers.receive(self, self._receive, limit=self._limit))
        await asyncio.wait({self._task}, timeout=SOON_SECONDS)
        self.complete = self._task.done() and self._task.exception() is None
        return self._task.result() if self.complete else None

    def nothing_more(self) -> None:
        """Note that the client half-closed the connection."""
        self.ended = True
        if self.transfer is not None:
            self.transfer.hurry()

    def taken(self) -> None:
        """Stop counting the body as in flight: its request runs now, and reserves its own memory."""
        self._transfers.bytes -= self.held
        self.held = 0

    def drop(self) -> None:
        """Abandon the body, received or not."""
        self.taken()
        if self._task is not None and not self._task.cancel() and not self._task.cancelled():
            self._task.exception()  # mark it as retrieved, or asyncio logs "exception was never retrieved"
