"""A circuit breaker: while the database hangs, requests fail at once instead of blocking a thread each.

A database that refuses connections fails fast and needs no breaker. One that hangs gives no error. So when a call takes longer than
``SLOW_SECONDS``, a separate thread probes the database with a trivial query:

    it answers                       the call is a large query, or waits for another writer: nothing happens
    no answer for HANG_SECONDS       the circuit opens: other calls fail at once, connections are cut, and probing continues
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
"""Duration of a call that starts a probe."""
HANG_SECONDS = 3.0
"""Time without an answer to the probe after which the circuit opens."""
PAUSE_SECONDS = 0.5
"""Interval of checks and of probes."""
T = TypeVar("T")


class Breaker:
    """The circuit breaker of one database. Safe to use from several threads.

    Args:
        probe: Runs a trivial query; raises ``StoreError``.
        cut: Closes the connections of blocked calls, as far as that is possible.
    """

    def __init__(self, probe: Callable[[], object], cut: Callable[[], None]) -> None:
        self._probe, self._cut = probe, cut
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._calls, self._numbers = dict[int, float](), itertools.count()
        self._suspected: float | None = None
        self._watching = False

    def close(self) -> None:
        """Stop the threads."""
        self._closed.set()

    def begin(self) -> int:
        """Note the start of a call and return its number. Raises ``StoreError`` if the circuit is open."""
        # A local copy: the prober may reset the attribute between the check and the message.
        since = self._suspected
        if since is not None and time.monotonic() - since > HANG_SECONDS:
            raise StoreError(f"the signature store has not answered for {time.monotonic() - since:.0f} s")
        # Without the lock, because every prediction for a user comes here: one operation of a dict or ``count`` is atomic.
        number = next(self._numbers)
        self._calls[number] = time.monotonic()
        if not self._watching:
            self._watch()
        return number

    def end(self, number: int) -> None:
        """Note the end of a call."""
        del self._calls[number]

    @contextmanager
    def call(self) -> Iterator[None]:
        """A context manager around a call. Raises ``StoreError`` if the circuit is open."""
        number = self.begin()
        try:
            yield
        finally:
            self.end(number)

    def within(self, seconds: float, ask: Callable[[], T]) -> T:
        """Run a query in a separate thread, with a timeout for the caller.

        Raises:
            StoreError: If there is no answer in time, or the query fails.
        """
        came = Future[T]()

        def asking() -> None:
            try:
                came.set_result(ask())
            except Exception as problem:
                came.set_exception(problem)

        try:
            # A daemon thread: a query that hangs must not keep the process from exiting.
            threading.Thread(target=asking, name="isoform-ask", daemon=True).start()
        except RuntimeError as problem:  # the system's limit of threads
            raise StoreError(f"cannot query the signature store: {problem}") from None
        if wait([came], seconds).done:
            return came.result()
        self._suspect()
        raise StoreError(f"the signature store did not answer within {seconds:g} s")

    def _watch(self) -> None:
        with self._lock:
            if self._watching or self._closed.is_set():
                return
            self._watching = _started(self._watcher, "isoform-store")  # if it fails, the next call retries

    def _watcher(self) -> None:
        while not self._closed.wait(PAUSE_SECONDS):
            moment, since = time.monotonic(), self._suspected
            try:
                if since is not None and moment - since > HANG_SECONDS:
                    self._cut()
                # A copy by list(), which is atomic: other threads begin and end calls meanwhile.
                elif since is None and any(moment - began > SLOW_SECONDS for began in list(self._calls.values())):
                    self._suspect()
            except Exception:  # the watcher must survive: nothing else frees blocked threads
                log.exception("cannot cut the connections of the signature store")

    def _suspect(self) -> None:
        with self._lock:
            if self._suspected is not None or self._closed.is_set():
                return
            self._suspected = time.monotonic()
            if not _started(self._prober, "isoform-probe"):
                self._suspected = None  # without a prober the circuit would never close again

    def _prober(self) -> None:
        """Probe until there is an answer, or an error that comes so fast that calls need no protection from it."""
        hangs = False
        try:
            while not self._closed.is_set():
                began = time.monotonic()
                try:
                    self._probe()
                    break
                except Exception as problem:  # any failure means that the database has not answered
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
    """Start a thread. Returns whether that succeeded; the system may be at its limit of threads."""
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError as problem:
        log.error("cannot start a thread to watch the signature store: %s", problem)
        return False
    return True
