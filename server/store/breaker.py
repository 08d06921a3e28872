"""A circuit breaker: while the database hangs, requests fail at once instead of each holding a thread.

A database that is away says so at once, and needs none of this. One that hangs says nothing. So as soon as somebody has waited for
``SLOW_SECONDS``, a thread of its own asks for something that takes no time:

    it is told                  somebody asked for much, or waits for another writer: nothing happens
    nothing for HANG_SECONDS    the circuit is open: everything else fails at once, connections are cut, and it goes on asking
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeVar

from isoform.runtime.errors import StoreError

__all__ = ["Breaker"]

log = logging.getLogger("isoform.server")

SLOW_SECONDS = 2.0
HANG_SECONDS = 3.0
PAUSE_SECONDS = 0.5
T = TypeVar("T")


class Breaker:
    """Of one database. Safe to use from several threads.

    Args:
        probe: Asks the database for something that takes no time; raises ``StoreError``.
        cut: Ends whatever waits for the database, as far as that is possible.
    """

    def __init__(self, probe: Callable[[], object], cut: Callable[[], None]) -> None:
        self._probe, self._cut = probe, cut
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._calls, self._numbers = dict[int, float](), itertools.count()
        self._suspected: float | None = None
        self._watching = False

    def close(self) -> None:
        """Let its threads end."""
        self._closed.set()

    def begin(self) -> int:
        """Say that a call begins; returns its number. Raises ``StoreError`` if the database hangs."""
        since = self._suspected
        if since is not None and time.monotonic() - since > HANG_SECONDS:
            raise StoreError(f"the signature store has not answered for {time.monotonic() - since:.0f} s")
        number = next(self._numbers)
        self._calls[number] = time.monotonic()
        if not self._watching:
            self._watch()
        return number

    def end(self, number: int) -> None:
        """Say that a call has ended."""
        del self._calls[number]

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call, from its begin to its end."""
        number = self.begin()
        try:
            yield
        finally:
            self.end(number)

    def within(self, seconds: float, ask: Callable[[], T]) -> T:
        """Ask in a thread of its own, so that its caller never waits longer than it wants to.

        Raises:
            StoreError: If there is no answer within so long, or the asking fails.
        """
        came = Future[T]()

        def asking() -> None:
            try:
                came.set_result(ask())
            except Exception as problem:
                came.set_exception(problem)

        try:
            threading.Thread(target=asking, name="isoform-ask", daemon=True).start()
        except RuntimeError as problem:  # the system has no more threads
            raise StoreError(f"the signature store was not asked: {problem}") from None
        if wait([came], seconds).done:
            return came.result()
        self._suspect()
        raise StoreError(f"the signature store did not answer within {seconds:g} s")

    def _watch(self) -> None:
        with self._lock:
            if self._watching or self._closed.is_set():
                return
            self._watching = _started(self._watcher, "isoform-store")  # else the next call tries it again

    def _watcher(self) -> None:
        while not self._closed.wait(PAUSE_SECONDS):
            moment, since = time.monotonic(), self._suspected
            try:
                if since is not None and moment - since > HANG_SECONDS:
                    self._cut()
                elif since is None and any(moment - began > SLOW_SECONDS for began in list(self._calls.values())):
                    self._suspect()
            except Exception:  # it must go on: nobody else ends what hangs
                log.exception("connections of the signature store could not be cut")

    def _suspect(self) -> None:
        with self._lock:
            if self._suspected is not None or self._closed.is_set():
                return
            self._suspected = time.monotonic()
            if not _started(self._prober, "isoform-probe"):
                self._suspected = None  # nobody would ever find out that it answers

    def _prober(self) -> None:
        """Ask until there is an answer, or a failure that comes so fast that nobody has to be spared it."""
        hangs = False
        try:
            while not self._closed.is_set():
                began = time.monotonic()
                try:
                    self._probe()
                    break
                except Exception as problem:  # whatever it is, the database has not answered
                    if time.monotonic() - began < PAUSE_SECONDS and not hangs:
                        break
                    if not hangs:
                        log.error("the signature store hangs: %s", problem)
                    hangs = True
                self._closed.wait(PAUSE_SECONDS)
            if hangs:
                log.warning("the signature store answers again")
        finally:
            self._suspected = None


def _started(work: Callable[[], None], name: str) -> bool:
    """Whether there is a thread for it; the system may have no more."""
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError as problem:
        log.error("nobody watches the signature store: %s", problem)
        return False
    return True
