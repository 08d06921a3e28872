"""The ASGI application, for ``isoform serve`` and for any other ASGI server.

    judge     authenticate, check rate limit, scopes and body length      on the loop; in a thread if the store must be queried
    read      receive the body, if the answer needs it                    on the loop
    answer    a prediction, or a Flask route                              on the loop or in a thread
    send      send the answer                                             on the loop

So no thread waits for a slow client. A Flask route first runs without the body, unless it arrived with the head: the route checks the
caller before it reads the body, and then raises ``BodyNeeded``. Once the body is there, the route runs again from the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import time
from collections.abc import Callable
from typing import Any

from flask import Flask

from isoform.runtime.errors import IsoformError
from isoform.server.app import front_of
from isoform.server.clients.transfer import SHORT_BYTES, Body, Receive, Send, Transfers
from isoform.server.dispatch import Dispatch
from isoform.server.exchange.answer import Answer
from isoform.server.exchange.problems import BusyError, DeadlineError, HeadTooLongError
from isoform.server.front import FREE, Front, Request
from isoform.server.http.environ import BodyNeeded, environ_of, set_body

__all__ = ["CONNECTION", "FIELDS", "Asgi"]

log = logging.getLogger("isoform.server")

CONNECTION = "isoform.connection"
"""Key in a scope's state under which ``isoform serve`` puts the ``Connection``, to be told when a request begins and ends."""
LIVE, READY = "/v2/health/live", "/v2/health/ready"
BY_LOOP_BYTES = 32 << 10
"""Largest body of a prediction on the loop; larger ones have so many samples that they would block it."""
FIELDS, TARGET_BYTES = 64, 4096
"""Most headers of a request, and longest target (path and query)."""
PULSE_SECONDS = 1.0
Opened = contextlib.AbstractContextManager[Flask]


class Asgi:
    """An ASGI 3 application around a Flask application of ``create_app``.

    Args:
        opened: Opens the Flask application; called when the server starts, in the process that serves.
        threads: Threads for requests.
        by_loop: Whether predictions may run on the loop; False if they are batched, or the store is on another machine.
        pulse: Called every second.
    """

    def __init__(
        self, opened: Callable[[], Opened], *, threads: int, by_loop: bool, pulse: Callable[[], object] = lambda: None
    ) -> None:  # fmt: skip
        self._opened, self._threads, self._may_loop, self._pulse = opened, threads, by_loop, pulse
        self._stack = contextlib.ExitStack()
        self._front: Front | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle an ASGI scope: a request, or the server's lifespan."""
        if scope["type"] == "http":
            try:
                await self._http(scope, receive, send)
            except Exception as problem:  # logged here, because not every ASGI server logs it
                log.error("a request failed", exc_info=problem)
                raise
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:  # a websocket
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._open()
        except Exception as problem:
            log.error("%s", problem, exc_info=None if isinstance(problem, IsoformError) else problem)
            await send({"type": "lifespan.startup.failed", "message": str(problem)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _open(self) -> Front:
        """Open the application at startup, or at the first request under servers without lifespan events."""
        if self._front is None:
            front = front_of(self._stack.enter_context(self._opened()))
            settings = front.service.settings
            # The largest body that can be accepted: it counts twice in the memory budget.
            self._transfers = Transfers(min(settings.max_body_bytes, settings.memory_bytes // 2))
            self._dispatch = Dispatch(front.service.admission, threads=self._threads, by_loop=self._may_loop)
            self._stack.callback(self._dispatch.close)
            beating = asyncio.ensure_future(self._beat(front))
            self._stack.callback(beating.cancel)
            gc.collect()
            gc.freeze()  # objects made so far live for ever; scanning them again and again would stall requests for milliseconds
            self._front = front
        return self._front

    def close(self) -> None:
        """Close the application, after waiting for a running job."""
        self._stack.close()

    async def _beat(self, front: Front) -> None:
        while True:
            self._pulse()
            front.service.metrics.refresh()
            await asyncio.sleep(PULSE_SECONDS)

    async def _http(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        front = self._front or self._open()
        request = front.begin(environ_of(scope))
        body = Body(self._transfers, receive, request.environ, limit=front.service.settings.max_body_bytes)
        connection = (scope.get("state") or {}).get(CONNECTION)
        if connection is not None:
            connection.begin(body.nothing_more)
        try:
            with front.traced(request):
                try:
                    answer = await self._answer(front, request, body, scope)
                except Exception as problem:
                    answer = front.refuse(request, problem)
                fields = front.end(request, answer)
            # Without its body read, the start of the connection's next request is unknown or far away.
            if body.declined or (not body.complete and answer.status in (408, 503)):
                fields = (*fields, ("Connection", "close"))
            if connection is not None and len(answer.body) <= SHORT_BYTES:
                connection.gather()
            # The client is gone or too slow: it is too late for an error.
            with contextlib.suppress(BusyError, DeadlineError, OSError):
                await self._transfers.send(send, answer, fields)
        finally:
            body.drop()
            if connection is not None:
                connection.flush()
                connection.end()

    async def _answer(self, front: Front, request: Request, body: Body, scope: dict[str, Any]) -> Answer:
        dispatch = self._dispatch
        if request.path in (LIVE, READY):
            front.judge(request)
            if request.path == LIVE:
                return front.by_flask(request)
            return await dispatch.when_ready(request.record.method, functools.partial(front.by_flask, request))
        if len(scope["headers"]) > FIELDS or len(scope["path"]) + len(scope["query_string"]) > TARGET_BYTES:
            raise HeadTooLongError(
                f"the request has more than {FIELDS} headers, or a target of more than {TARGET_BYTES} bytes; send fewer headers or a shorter URL"
            )
        try:
            await (dispatch.known if front.knows(request) else dispatch.strangers).wait()
            if request.path not in FREE:
                front.service.admission.check()
            if front.at_hand(request):
                front.judge(request)
            else:
                await dispatch.half_in_thread(functools.partial(front.judge, request))
            if request.record.model is None:
                return await self._by_flask(front, request, body)
        except Exception:
            await body.read_soon()  # consume a short body, so that the connection can be kept alive
            raise
        set_body(request.environ, await body.read())  # no other reference: the body is freed once it is decoded
        request.record.arrived = time.perf_counter()  # latency is measured from here, without the client's upload
        predict = functools.partial(front.predict, request)
        # Not a compressed one: it may be large once it is decompressed.
        is_short = (
            int(request.environ["CONTENT_LENGTH"]) <= BY_LOOP_BYTES and "HTTP_CONTENT_ENCODING" not in request.environ
        )
        if not (dispatch.by_loop and is_short):
            return await dispatch.in_thread(predict, began=body.taken)
        await dispatch.turn()
        return dispatch.by_this_loop(predict)

    async def _by_flask(self, front: Front, request: Request, body: Body) -> Answer:
        data, task = await body.read_soon(), functools.partial(front.by_flask, request)
        if data is None:
            try:
                return await self._dispatch.half_in_thread(task)
            except BodyNeeded:
                data = await body.read()
        set_body(request.environ, data)
        del data  # so that the request alone refers to the body, and frees it when it is decoded
        request.record.arrived = time.perf_counter()
        return await self._dispatch.in_thread(task, always=request.path in FREE, began=body.taken)
