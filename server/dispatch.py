"""Scheduling: decide whether the event loop or a thread runs the work of a request, and in which order requests begin.

Short predictions of small networks run on the event loop itself: handing a request to a thread and back, with contention for the GIL,
costs as much as the forward pass. Between two predictions the loop handles all other events. When ``SLOW_ONES`` predictions in a row take
longer than ``SLOW_SECONDS``, because the network is large or the store hangs, predictions run in threads for a while. They always do
when the store is on another machine or requests are batched. All other work runs in threads; readiness checks have threads of their own.

A burst of hundreds of requests begins a few at a time (``Line``), so that the loop in between serves requests that bypass the line,
like liveness checks.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from isoform.server.capacity.admission import Admission
from isoform.server.exchange.answer import Answer

__all__ = ["Dispatch", "Line"]

Result = TypeVar("Result")

SLOW_SECONDS = 0.01
"""A prediction on the loop that takes longer counts as slow."""
SLOW_ONES = 2
"""Slow predictions in a row that move predictions to threads. A single one may be noise of the machine."""
HUNG_SECONDS = 0.25
"""A single prediction that takes longer moves them at once: the store hangs."""
SHY_SECONDS, SHY_TIMES = 1.0, 20.0
"""Backoff of the loop: at least so many seconds, or so many times the duration of the slow prediction, whichever is longer."""
KNOWN_ONES = 8
"""Requests of known callers that begin in one iteration of the loop."""
STRANGERS_SECONDS = 0.004
"""Pause between requests of unknown callers, which begin one by one: a flood of them is mostly refused."""
READY_THREADS = 2
"""Threads for readiness checks, one for GET and one for HEAD: a check may wait for the store."""


class Line:
    """A FIFO line that admits a number of requests per iteration of the loop; between iterations the loop polls its connections. Not thread-safe.

    Args:
        each_turn: Requests admitted per iteration.
        pause: Minimum seconds between two iterations that admit.
    """

    def __init__(self, each_turn: int, *, pause: float = 0.0) -> None:
        self._each_turn, self._pause, self._left, self._turning = each_turn, pause, each_turn, False
        self._waiting = collections.deque[asyncio.Future[None]]()

    @property
    def moves(self) -> bool:
        """Whether the next request is admitted at once."""
        return self._left > 0

    async def wait(self) -> None:
        """Wait to be admitted, in order of arrival; returns at once if this iteration has room."""
        if self._left:
            self._left -= 1
            if not self._turning:
                self._turning = True
                self._turn_later()
            return
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        await mine

    def _turn(self) -> None:
        self._left = self._each_turn
        while self._left and self._waiting:
            first = self._waiting.popleft()
            if not first.done():  # cancelled if its client has closed the connection
                first.set_result(None)
                self._left -= 1
        self._turning = self._left < self._each_turn
        if self._turning:
            self._turn_later()

    def _turn_later(self) -> None:
        loop = asyncio.get_running_loop()
        if self._pause:
            loop.call_later(self._pause, self._turn)
        else:
            loop.call_soon(self._turn)


class Dispatch:
    """The scheduler of one process. Called from its event loop only.

    Args:
        admission: The queue of requests that wait for a thread or the loop.
        threads: Threads for requests.
        by_loop: Whether predictions may run on the loop.
    """

    def __init__(self, admission: Admission, *, threads: int, by_loop: bool) -> None:
        self._admission, self._by_loop = admission, by_loop
        self._threads = ThreadPoolExecutor(threads, "isoform-request")
        self._for_ready = ThreadPoolExecutor(READY_THREADS, "isoform-ready")
        self.known, self.strangers = Line(KNOWN_ONES), Line(1, pause=STRANGERS_SECONDS)
        """New requests, before authentication: those whose key was valid recently, and all others."""
        self._predictions = Line(1)  # one per iteration, so that the loop polls its connections after each
        # Requests whose body is not there yet get half of the threads, so that complete requests find one.
        self._halves = asyncio.Semaphore(max(1, threads // 2))
        self._asked = dict[str, asyncio.Task[Answer]]()
        """HTTP method → the readiness check in flight."""
        self._slow, self._shy_until = 0, 0.0

    @property
    def by_loop(self) -> bool:
        """Whether the next prediction may run on the loop."""
        return self._by_loop and time.perf_counter() >= self._shy_until

    async def in_thread(
        self, task: Callable[[], Result], *, always: bool = False, began: Callable[[], object] | None = None
    ) -> Result:
        """Run a task in a thread.

        Args:
            task: The work.
            always: Whether to queue it even if the queue is full.
            began: Called on the loop once a thread has started it.

        Raises:
            BusyError: If the queue is full.
        """
        self._admission.enter(always=always)
        loop = asyncio.get_running_loop()

        def begin() -> Result:
            self._admission.leave()
            if began is not None:
                loop.call_soon_threadsafe(began)
            return task()

        return await self._run(self._threads, begin)

    async def when_ready(self, method: str, task: Callable[[], Answer]) -> Answer:
        """Answer a readiness check in a reserved thread. Concurrent checks by the same method share one answer."""
        asked = self._asked.get(method)
        if asked is None:
            asked = self._asked[method] = asyncio.ensure_future(self._run(self._for_ready, task))
            asked.add_done_callback(lambda _: self._asked.pop(method))
        return await asyncio.shield(asked)  # one client that disconnects must not cancel the check for the others

    async def half_in_thread(self, task: Callable[[], Result]) -> Result:
        """Run a task for a request whose body is not there yet. It takes no place in the queue: those are for complete requests."""
        async with self._halves:
            return await self.in_thread(task, always=True)

    async def turn(self) -> None:
        """Wait until a prediction may run on the loop. Raises ``BusyError`` if the queue is full."""
        if self._predictions.moves:
            await self._predictions.wait()
            return
        self._admission.enter()
        try:
            await self._predictions.wait()
        finally:
            self._admission.leave()

    def by_this_loop(self, task: Callable[[], Result]) -> Result:
        """Run a task on the loop and measure it, to decide where the next predictions run."""
        began = time.perf_counter()
        try:
            return task()
        finally:
            ended = time.perf_counter()
            took = ended - began
            self._slow = 0 if took <= SLOW_SECONDS else SLOW_ONES if took > HUNG_SECONDS else self._slow + 1
            if self._slow >= SLOW_ONES:
                self._shy_until, self._slow = ended + max(SHY_SECONDS, SHY_TIMES * took), 0

    def close(self) -> None:
        """Start nothing more and cancel what is queued."""
        for pool in (self._threads, self._for_ready):
            pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, task: Callable[[], Result]) -> Result:
        # With a copy of the context, because executors do not carry the trace span over.
        return await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, task)
