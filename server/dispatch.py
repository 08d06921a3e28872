"""Who does what a request needs: the event loop itself, or a thread, and whose turn it is.

A short prediction of a small network is made by the loop: two threads that hand each other a request, and fight for Python's lock, take as
long as the network does. Between two of them the loop does everything else that there is to do. As soon as two in a row take longer than
``SLOW_SECONDS``, because the network is large or the store hangs, predictions get threads for a while; and always where the store
is on another machine, or requests are batched. Everything else has threads. Whether the server is ready is asked by threads of its own.

Hundreds of requests that come at the same moment are let on a few at a time (``Line``), so that the loop meanwhile notices those that
come after them and pass the line, like the question whether the server lives.
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
SLOW_ONES = 2
"""So many one after the other; one alone may be the machine's."""
HUNG_SECONDS = 0.25
"""One that takes so long is enough: the store hangs."""
SHY_SECONDS, SHY_TIMES = 1.0, 20.0
"""Then the loop makes none for so long, or so many times as long as the slow one took: the longer it hung, the later it tries again."""
KNOWN_ONES = 8
"""So many requests of known callers begin in one turn of the loop."""
STRANGERS_SECONDS = 0.004
"""Others, who may come by the hundred to be refused, begin one by one, so far apart."""
READY_THREADS = 2
"""For the question whether the server is ready, by GET and by HEAD: it waits for the store."""


class Line:
    """Lets a number of requests on in each turn of the loop, which looks at its connections between two turns. For its loop alone.

    Args:
        each_turn: How many.
        pause: Seconds between two turns, at least.
    """

    def __init__(self, each_turn: int, *, pause: float = 0.0) -> None:
        self._each_turn, self._pause, self._left, self._turning = each_turn, pause, each_turn, False
        self._waiting = collections.deque[asyncio.Future[None]]()

    @property
    def moves(self) -> bool:
        """Whether the next one need not wait."""
        return self._left > 0

    async def wait(self) -> None:
        """Return when it is one's turn, in the order in which they came; at once if this turn of the loop has room for one more."""
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
            if not first.done():  # its request may be gone
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
        self.known, self.strangers = Line(KNOWN_ONES), Line(1, pause=STRANGERS_SECONDS)
        """Of requests that have come: those of callers who are known, and all others, before it is seen who sends them."""
        self._predictions = Line(1)
        self._halves = asyncio.Semaphore(max(1, threads // 2))
        self._asked = dict[str, asyncio.Task[Answer]]()
        """Method → the question whether the server is ready."""
        self._slow, self._shy_until = 0, 0.0

    @property
    def by_loop(self) -> bool:
        """Whether the loop may make the next prediction."""
        return self._by_loop and time.perf_counter() >= self._shy_until

    async def in_thread(
        self, task: Callable[[], Result], *, always: bool = False, began: Callable[[], object] | None = None
    ) -> Result:
        """Let a thread do something.

        Args:
            task: What.
            always: Whether it may wait even if too many do.
            began: Called by the loop once a thread has taken it up.

        Raises:
            BusyError: If too many wait.
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
        """Let a thread that is kept for it answer whether the server is ready: once for all who ask before there is an answer."""
        asked = self._asked.get(method)
        if asked is None:
            asked = self._asked[method] = asyncio.ensure_future(self._run(self._for_ready, task))
            asked.add_done_callback(lambda _: self._asked.pop(method))
        return await asyncio.shield(asked)  # it goes on for the others if one is gone

    async def half_in_thread(self, task: Callable[[], Result]) -> Result:
        """Let a thread do something for a request whose body is not there: not in the queue, whose places are for whole ones."""
        async with self._halves:
            return await self.in_thread(task, always=True)

    async def turn(self) -> None:
        """Wait until the loop may make a prediction. Raises ``BusyError`` if too many wait."""
        if self._predictions.moves:
            await self._predictions.wait()
            return
        self._admission.enter()
        try:
            await self._predictions.wait()
        finally:
            self._admission.leave()

    def by_this_loop(self, task: Callable[[], Result]) -> Result:
        """Do something here and now, and see how long it takes."""
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
        """Begin nothing more."""
        for pool in (self._threads, self._for_ready):
            pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, task: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, task)
