"""Bodies on their way in and answers on their way out, by a loop that waits for no client longer than it should.

Nobody may be silent for ``SILENT_SECONDS``, nor slower than ``RATE`` on average. Where all that is on its way takes too much memory, the
transfer that has been under way for longest is given up: who sends or takes at a usual speed is done before that.
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
RATE = 4096
"""Bytes a second."""
TOTAL_BYTES = 32 << 20
"""Of all that is on its way, at least."""
SHORT_BYTES = 64 << 10
"""Shorter bodies are read before it is known what for, where they come with their head; shorter answers are sent at once."""
SOON_SECONDS = 0.01
"""A short body mostly comes with its head; nobody waits longer for it before it is known who may ask."""


class _Transfer:
    """One body or answer."""

    def __init__(self) -> None:
        self.size = 0
        self.data: bytes | bytearray = b""
        """What has come of a body, in one piece: pieces that are put together at the end would be there twice."""
        self.given_up = self.ended = self.over = False
        self._loop = asyncio.get_running_loop()
        self.timeout = asyncio.timeout(SILENT_SECONDS)

    def moved(self, size: int) -> None:
        """So many bytes came, or were taken."""
        if not (self.given_up or self.ended):
            self._until(min((self.timeout.when() or 0.0) + size / RATE, self._loop.time() + SILENT_SECONDS))

    def hurry(self) -> None:
        """Nothing more comes: what has come is read, and no more waited for."""
        self.ended = True
        if not self.given_up:
            self._until(self._loop.time() + SOON_SECONDS)

    def give_up(self) -> None:
        """End it where it waits, and forget what has come of it."""
        self.given_up, self.data, self.size = True, b"", 0
        self._until(self._loop.time())

    def _until(self, moment: float) -> None:
        if not (self.over or self.timeout.expired()):
            self.timeout.reschedule(moment)


class Transfers:
    """All of one process. For its loop alone.

    Args:
        total: Bytes that may be on their way together; above it the oldest transfers end.
    """

    def __init__(self, total: int | None = None) -> None:
        self._total = TOTAL_BYTES if total is None else max(total, TOTAL_BYTES)
        self._under_way = dict[_Transfer, None]()  # in the order in which they began
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
                raise BusyError("what other requests send and are sent takes too much memory; try again") from None
            if transfer.ended:
                raise InputError(f"the body breaks off after {transfer.size} bytes") from None
            raise DeadlineError(
                f"nothing came for {SILENT_SECONDS:.0f} s, or less than {RATE} bytes a second"
            ) from None
        finally:
            self.bytes -= transfer.size
            self._under_way.pop(transfer, None)

    def _grow(self, transfer: _Transfer, size: int) -> None:
        """Count bytes that are in memory because of a transfer; end others if those are too many."""
        transfer.size += size
        self.bytes += size
        self._under_way.setdefault(transfer)
        while self.bytes > self._total and self._under_way:
            oldest = next(iter(self._under_way))
            del self._under_way[oldest]
            self.bytes -= oldest.size
            oldest.give_up()

    async def receive(self, body: Body, receive: Receive, *, limit: int) -> bytes | bytearray:
        """All of a body.

        Args:
            body: Whose.
            receive: As ASGI has it.
            limit: Longest, in bytes.

        Raises:
            RequestEntityTooLarge: If it is longer.
            InputError: If the client is gone before the end.
            DeadlineError: If the client is silent, or too slow.
            BusyError: If too much is on its way.
        """
        async with self._one() as transfer:
            body.transfer = transfer
            if body.ended:
                transfer.hurry()
            more = True
            while more or transfer.given_up:  # who is given up waits here for its timeout, which comes at once
                more = self._take(transfer, await receive(), limit)
            body.held, transfer.size = transfer.size, 0
            data, transfer.data = transfer.data, b""  # kept by nobody else
        return data

    def _take(self, transfer: _Transfer, message: dict[str, Any], limit: int) -> bool:
        """Take what has come. Returns whether there is more."""
        if message["type"] != "http.request":
            raise InputError(f"the body breaks off after {transfer.size} bytes")
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
            raise RequestEntityTooLarge(f"the body is longer than the {limit:,} bytes that this server reads")
        return bool(message.get("more_body", False))

    async def send(self, send: Send, answer: Answer, fields: Iterable[tuple[str, str]]) -> None:
        """An answer, until the client has it; ``Answer.sent`` is called then, or when it is given up. Raises as ``receive``."""
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
                    body = b""  # to be sent when there is room for it, that is when most of the rest is taken
                await send({"type": "http.response.body", "body": body})
        finally:
            if answer.sent is not None:
                answer.sent()


class Body:
    """A request's body, which is read when somebody wants it.

    Args:
        transfers: Of this process.
        receive: As ASGI has it.
        environ: The request.
        limit: Longest body, in bytes.
    """

    def __init__(self, transfers: Transfers, receive: Receive, environ: dict[str, Any], *, limit: int) -> None:
        length = environ.get("CONTENT_LENGTH", "")
        self._length = int(length) if length.isascii() and length.isdigit() and len(length) < 13 else None
        self._none = self._length in (None, 0) and "HTTP_TRANSFER_ENCODING" not in environ
        self._asked = "HTTP_EXPECT" in environ  # reading tells the client to send
        self.comes_later = not self._none and (self._length is None or self._length > SHORT_BYTES or self._asked)
        """Whether it cannot be expected to come with the head."""
        self._transfers, self._receive, self._limit = transfers, receive, limit
        self._task: asyncio.Task[bytes | bytearray] | None = None
        self.transfer: _Transfer | None = None
        self.held = 0
        """Bytes that have come, and count as on their way until ``taken``: their request may wait for a thread meanwhile."""
        self.ended = False
        """Whether the client sends nothing more."""
        self.complete = self._none

    @property
    def declined(self) -> bool:
        """Whether the client waits to be told to send it, and was not: nobody knows then whether it comes (``Expect: 100-continue``)."""
        return self._asked and not self._none and self.transfer is None

    async def read(self) -> bytes | bytearray:
        """All of it. Raises as ``Transfers.receive``."""
        found = await (self._task or self._transfers.receive(self, self._receive, limit=self._limit))
        self.complete = True
        return found

    async def read_soon(self) -> bytes | bytearray | None:
        """All of it, if it is short and comes with its head; None if there is more to wait for, or something is wrong with it."""
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
        """The client sends nothing more."""
        self.ended = True
        if self.transfer is not None:
            self.transfer.hurry()

    def taken(self) -> None:
        """Its request is handled now, and counts what it holds itself."""
        self._transfers.bytes -= self.held
        self.held = 0

    def drop(self) -> None:
        """Nobody wants it any longer, nor the rest."""
        self.taken()
        if self._task is not None and not self._task.cancel() and not self._task.cancelled():
            self._task.exception()  # else asyncio says on stderr that nobody asked for it
