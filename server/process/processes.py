"""Supervise the processes of a server: restart those that die, kill those that hang, stop all together.

The first process opens the listening socket and forks the workers, which inherit it; it accepts no connections itself. Every worker
opens the bundle and the store after the fork, because ONNX Runtime's threads and database connections do not survive a fork.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from types import FrameType

from isoform.runtime.errors import EngineError

__all__ = ["Processes", "Sign", "Signs"]

SILENT_SECONDS = 120.0
"""A process without a heartbeat for this long is killed."""
STOP_SECONDS = 60.0
"""Processes that have not exited by then are killed. Longer than the grace periods of requests and jobs."""
YOUNG_SECONDS = 1.0
"""A process that died younger is restarted after a pause, so that one that cannot start does not spin."""
LOOK_SECONDS, START_SECONDS = 1.0, 0.02
"""Interval of checks, and the interval until the first process is ready."""
_SIGN, _TIME, _COUNT, _NOBODY = struct.Struct("=dq"), struct.Struct("=d"), struct.Struct("=q"), 1 << 40
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Signs:
    """Heartbeats and connection counts of all processes, in shared memory.

    Args:
        count: Number of processes.
    """

    def __init__(self, count: int) -> None:
        self.memory, self.parent = mmap.mmap(-1, count * _SIGN.size), os.getpid()
        self._counts = range(8, count * _SIGN.size, _SIGN.size)
        for place in range(count):
            Sign(self, place).forget()

    @property
    def fewest(self) -> int:
        """The smallest number of connections of any process."""
        return min(int(_COUNT.unpack_from(self.memory, at)[0]) for at in self._counts)


class Sign:
    """Heartbeat (``time.monotonic``) and connection count of one process."""

    def __init__(self, all_of_them: Signs, place: int) -> None:
        self._all, self._at = all_of_them, place * _SIGN.size

    def forget(self) -> None:
        """Reset the entry of a process that is gone or not started, so that others do not leave connections to it."""
        _SIGN.pack_into(self._all.memory, self._at, 0.0, _NOBODY)

    def give(self) -> None:
        """Write a heartbeat. Sends SIGTERM to this process if the first process is gone."""
        _TIME.pack_into(self._all.memory, self._at, time.monotonic())
        if os.getppid() != self._all.parent:  # orphaned: the supervisor was killed
            os.kill(os.getpid(), signal.SIGTERM)

    @property
    def last(self) -> float:
        """Time of the last heartbeat; 0 for none."""
        seconds: float = _TIME.unpack_from(self._all.memory, self._at)[0]
        return seconds

    @property
    def fewest(self) -> int:
        """The smallest number of connections of any process."""
        return self._all.fewest

    def tell(self, count: int) -> None:
        """Set the number of connections of this process."""
        _COUNT.pack_into(self._all.memory, self._at + 8, count)


class _Process:
    def __init__(self, run: Callable[[Sign], None], sign: Sign) -> None:
        self.sign, self.began = sign, time.monotonic()
        self._process = ForkProcess(target=self._run, args=(run,))
        # A signal between fork and the child's own handlers would run the parent's handler in the child.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.sentinel, self.number = self._process.sentinel, self._process.pid or 0

    def _run(self, run: Callable[[Sign], None]) -> None:
        for number in STOPS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        run(self.sign)

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def hangs(self) -> bool:
        return time.monotonic() - (self.sign.last or self.began) > SILENT_SECONDS

    def tell(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.number, number)

    def end(self) -> None:
        self._process.join()
        self._process.close()
        self.sign.forget()


class Processes:
    """The supervisor of the worker processes.

    Args:
        run: Main function of a worker; it calls ``Sign.give`` every second, and ``Sign.tell`` once it accepts connections.
        count: Number of workers.
        ended: Called with the pid of a process that is gone, before its replacement starts.
    """

    def __init__(self, run: Callable[[Sign], None], count: int, *, ended: Callable[[int], object]) -> None:
        self._run, self._ended = run, ended
        signs = Signs(count)
        self._free = [Sign(signs, place) for place in range(count)]
        self._running = list[_Process]()

    def serve(self, listener: socket.socket, *, ready: Callable[[], object], drain: Callable[[], float]) -> None:
        """Run the workers until SIGTERM or Ctrl-C.

        Args:
            listener: The listening socket; closed when the workers are told to stop.
            ready: Called once, when the first worker is ready.
            drain: Called at SIGTERM; returns how many seconds to keep serving before stopping. A second signal ends the drain.

        Raises:
            EngineError: If the workers cannot start.
        """
        with _signals() as signals:
            self._start()
            told, until = False, float("inf")
            while time.monotonic() < until:
                look = LOOK_SECONDS if told else START_SECONDS
                came = signals.wait(
                    [process.sentinel for process in self._running], min(look, until - time.monotonic())
                )
                if not told and any(process.sign.last for process in self._running):
                    told = True
                    ready()
                if until < float("inf") and came:
                    break
                if came:
                    until = time.monotonic() + (drain() if came == {signal.SIGTERM} else 0.0)
                self._look(started=told)
            listener.close()
            self._stop(signals, quickly=signal.SIGQUIT in came)

    def _look(self, *, started: bool) -> None:
        for process in [process for process in self._running if process.alive and process.hangs]:
            process.tell(signal.SIGKILL)
        gone = [process for process in self._running if not process.alive]
        for process in gone:
            self._gone(process)
        if gone and not started:
            self._stop(None, quickly=True)
            raise EngineError("a worker process could not start; see its messages above")
        if any(time.monotonic() - process.began < YOUNG_SECONDS for process in gone):
            time.sleep(YOUNG_SECONDS)
        self._start()

    def _start(self) -> None:
        while self._free:
            self._running.append(_Process(self._run, self._free.pop()))

    def _stop(self, signals: _Signals | None, *, quickly: bool) -> None:
        end = time.monotonic() + (0.0 if quickly else STOP_SECONDS)
        for process in self._running:
            process.tell(signal.SIGTERM)
        while self._running:
            if time.monotonic() > end:
                for process in self._running:
                    process.tell(signal.SIGKILL)
            if signals is not None and signals.wait([process.sentinel for process in self._running], 0.2) & {
                signal.SIGQUIT,
                signal.SIGINT,
            }:
                end = 0.0
            for process in [process for process in self._running if not process.alive]:
                self._gone(process)

    def _gone(self, process: _Process) -> None:
        process.end()
        self._running.remove(process)
        self._free.append(process.sign)
        self._ended(process.number)


class _Signals:
    """Received signals, for a loop that also waits for other events."""

    def __init__(self, reader: int) -> None:
        self._reader = reader
        self.came = set[int]()

    def wait(self, others: list[int], seconds: float) -> set[int]:
        """Wait for a signal, for one of ``others`` to become ready, or for the timeout. Returns the received signals."""
        if self._reader in multiprocessing.connection.wait([self._reader, *others], seconds):
            os.read(self._reader, 1024)
        came, self.came = self.came, set()
        return came


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
    # The self-pipe trick: a handler's byte wakes the loop, also if the signal arrives just before it waits.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signals = _Signals(reader)

    def note(number: int, _frame: FrameType | None) -> None:
        signals.came.add(number)
        with contextlib.suppress(BlockingIOError):
            os.write(writer, b".")

    before = {number: signal.signal(number, note) for number in STOPS}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
