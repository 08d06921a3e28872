"""The processes of a server: started again when they die, killed when they hang, stopped together.

The first process listens and hands its socket to the others, which it forks; it takes no connection itself. Every process opens the
bundle and the store for itself, after the fork, because ONNX Runtime's threads and open databases do not survive one.
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
"""A process that gave no sign of life for so long is killed."""
STOP_SECONDS = 60.0
"""Longer than requests and jobs are given; who is not gone by then is killed."""
YOUNG_SECONDS = 1.0
"""A process that died younger is not started again at once."""
LOOK_SECONDS, START_SECONDS = 1.0, 0.02
"""How often processes are looked at, and how often before the first of them answers."""
_SIGN, _TIME, _COUNT, _NOBODY = struct.Struct("=dq"), struct.Struct("=d"), struct.Struct("=q"), 1 << 40
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Signs:
    """What the processes tell each other, in memory that all of them share.

    Args:
        count: How many processes.
    """

    def __init__(self, count: int) -> None:
        self.memory, self.parent = mmap.mmap(-1, count * _SIGN.size), os.getpid()
        self._counts = range(8, count * _SIGN.size, _SIGN.size)
        for place in range(count):
            Sign(self, place).forget()

    @property
    def fewest(self) -> int:
        """Connections of the process that has fewest."""
        return min(int(_COUNT.unpack_from(self.memory, at)[0]) for at in self._counts)


class Sign:
    """What one process tells: when it was last seen alive, by ``time.monotonic``, and how many connections it has."""

    def __init__(self, all_of_them: Signs, place: int) -> None:
        self._all, self._at = all_of_them, place * _SIGN.size

    def forget(self) -> None:
        """The process is gone, or not there yet: nobody waits for it to take a connection."""
        _SIGN.pack_into(self._all.memory, self._at, 0.0, _NOBODY)

    def give(self) -> None:
        """This process lives, and answers. Ends it by SIGTERM if the first process is gone."""
        _TIME.pack_into(self._all.memory, self._at, time.monotonic())
        if os.getppid() != self._all.parent:
            os.kill(os.getpid(), signal.SIGTERM)

    @property
    def last(self) -> float:
        """When; 0 for never."""
        seconds: float = _TIME.unpack_from(self._all.memory, self._at)[0]
        return seconds

    @property
    def fewest(self) -> int:
        """Connections of the process that has fewest."""
        return self._all.fewest

    def tell(self, count: int) -> None:
        """So many connections has this process."""
        _COUNT.pack_into(self._all.memory, self._at + 8, count)


class _Process:
    def __init__(self, run: Callable[[Sign], None], sign: Sign) -> None:
        self.sign, self.began = sign, time.monotonic()
        self._process = ForkProcess(target=self._run, args=(run,))
        # One that came too soon would find the parent's handler in the child.
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
    """The processes that serve.

    Args:
        run: What one does; it calls ``Sign.give`` every second, and ``Sign.tell`` as soon as it takes connections.
        count: How many.
        ended: Called with the number of a process that is gone, before another one takes its place.
    """

    def __init__(self, run: Callable[[Sign], None], count: int, *, ended: Callable[[int], object]) -> None:
        self._run, self._ended = run, ended
        signs = Signs(count)
        self._free = [Sign(signs, place) for place in range(count)]
        self._running = list[_Process]()

    def serve(self, listener: socket.socket, *, ready: Callable[[], object], drain: Callable[[], float]) -> None:
        """Run them until SIGTERM or Ctrl-C.

        Args:
            listener: What they take connections from; closed when they are told to stop.
            ready: Called as soon as one of them answers.
            drain: Called at SIGTERM; returns the seconds for which they answer before they are told to stop. A second signal ends them.

        Raises:
            EngineError: If none of them can start.
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
            raise EngineError("a process of the server could not start; what it said before tells why")
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
    """Signals that have come, for a loop that waits for other things too."""

    def __init__(self, reader: int) -> None:
        self._reader = reader
        self.came = set[int]()

    def wait(self, others: list[int], seconds: float) -> set[int]:
        """Wait until a signal comes, one of others is there, or time is over. Returns signals."""
        if self._reader in multiprocessing.connection.wait([self._reader, *others], seconds):
            os.read(self._reader, 1024)
        came, self.came = self.came, set()
        return came


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
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
