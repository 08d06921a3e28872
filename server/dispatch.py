"""Who does what a request needs: the event loop itself, or a thread, and whose turn it is.

A short prediction of a small network is made by the loop: two threads that hand each other a request, and fight for Python's lock, take as
long as the network does. Between two of them the loop does everything else that there is to do. As soon as two in a row take longer than
``SLOW_SECONDS``, because the network is large or the store hangs, predictions get threads, for ``SHY_SECONDS``; and always where the store
is on another machine, or requests are batched. Everything else has threads. Whether the server is ready is asked by threads of its own.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from isoform.server.admission import Admission

__all__ = ["Dispatch"]

Result = TypeVar("Result")

SLOW_SECONDS = 0.01
SLOW_ONES = 2
"""So many one after the other; one alone may be the machine's."""
SHY_SECONDS = 1.0
READY_THREADS = 4
"""Questions whether the server is ready wait for the store, all of them for one look at it."""


class Dispatch:
    """Of one process. For its loop alone.

    Args:
        admission: The queue, of whoever waits for a thread or the loop.
        threads: Requests that threads handle at once.
        by_loop: Whether the loop may make predictions.
    """

    def __init__(self, admission: Admission, *, threads: int, by_loop: bool) -> None:
        self._admission, self._by_loop = admission, by_loop
        self._threads = ThreadPoolExecutor(threads, "isoform-request")
        self._for_ready = ThreadPoolExecutor(READY_THREADS, "isoform-ready")
        self._line = collections.deque[asyncio.Future[None]]()
        self._taken, self._slow, self._shy_until = False, 0, 0.0

    @property
    def by_loop(self) -> bool:
        """Whether the loop may make the next prediction."""
        return self._by_loop and time.perf_counter() >= self._shy_until

    async def in_thread(self, task: Callable[[], Result], *, always: bool = False) -> Result:
        """Let a thread do something. Raises ``BusyError`` if too many wait, unless it is to be done always."""
        self._admission.enter(always=always)

        def begin() -> Result:
            self._admission.leave()
            return task()

        return await self._run(self._threads, begin)

    async def when_ready(self, task: Callable[[], Result]) -> Result:
        """Let a thread do something that is kept for the question whether the server is ready."""
        return await self._run(self._for_ready, task)

    async def turn(self) -> None:
        """Wait until the loop may make a prediction. Raises ``BusyError`` if too many wait."""
        if not self._taken:
            self._taken = True
            asyncio.get_running_loop().call_soon(self._next)
            return
        self._admission.enter()
        mine = asyncio.get_running_loop().create_future()
        self._line.append(mine)
        try:
            await mine
        finally:
            self._admission.leave()

    def by_this_loop(self, task: Callable[[], Result], *, first: bool = False) -> Result:
        """Do something here and now, the first or the last part of what a prediction needs, and see how long it takes."""
        began = time.perf_counter()
        try:
            return task()
        finally:
            ended = time.perf_counter()
            if ended - began > SLOW_SECONDS:
                self._slow += 1
            elif not first:
                self._slow = 0
            if self._slow >= SLOW_ONES:
                self._shy_until, self._slow = ended + SHY_SECONDS, 0

    def close(self) -> None:
        """Begin nothing more."""
        for pool in (self._threads, self._for_ready):
            pool.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        """Once in a turn of the loop, so that it looks at its connections between two predictions."""
        while self._line:
            first = self._line.popleft()
            if not first.done():
                first.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._taken = False

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, task: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, task)
