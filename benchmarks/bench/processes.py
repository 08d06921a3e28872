"""Processes that end with the benchmark, whatever ends it: servers, pools, and helpers that are told what to do by lines of JSON. Linux.

Each is a session of its own, so that everything that it starts is found again: to add up its memory, and to end it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

__all__ = ["Helper", "Process", "obey", "pool", "status_bytes"]

HERE = Path(__file__).parent
PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 8.0
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Of numpy, for everybody: its threads would only wait beside ONNX Runtime's."""
_libc = ctypes.CDLL(None)


class Process:
    """A process and all that it starts. A context manager: at its end none of them is left."""

    def __init__(
        self, command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, folder: Path | None = None,
        log: Path | None = None, talks: bool = False,
    ) -> None:  # fmt: skip
        pipe, mother = subprocess.PIPE if talks else subprocess.DEVNULL, os.getpid()
        errors: IO[bytes] | int = subprocess.DEVNULL if log is None else log.open("ab")
        self.log = log
        self._asked: float | None = None
        self._popen = subprocess.Popen(
            [str(word) for word in command], env={**os.environ, **ONE_THREAD, **(environment or {})}, cwd=folder, stdin=pipe,
            stdout=pipe if talks else errors, stderr=None if log is None else errors, start_new_session=True,
            preexec_fn=lambda: _end_with(mother),
        )  # fmt: skip
        if not isinstance(errors, int):
            errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def alive(self) -> bool:
        """Whether it, the first of them, still runs."""
        return self._popen.poll() is None

    def numbers(self) -> list[int]:
        """Process numbers of the session."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[3]) == self._popen.pid and fields[0] != "Z":
                    found.append(int(entry.name))
        return found

    def memory_mb(self) -> tuple[float, float]:
        """Megabytes of all of them: resident, where what they share counts for each; and proportional, where it counts once."""
        resident = proportional = 0
        for number in self.numbers():
            try:
                lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
            resident += sizes["Rss"]
            proportional += sizes["Pss"]
        return resident * 1024 / 1e6, proportional * 1024 / 1e6

    def cpu_seconds(self) -> float:
        """Processor time that all of them have used so far."""
        ticks = 0
        for number in self.numbers():
            with contextlib.suppress(OSError):
                ticks += sum(map(int, Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def pause(self) -> None:
        """Let none of them run until ``resume``."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them run."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for process in self.numbers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def ask_to_end(self) -> None:
        """Say that it is time, and do not wait: several may end at the same time."""
        if self._asked is None:
            self._asked = time.monotonic()
            self.resume()
            self._ask()

    def _ask(self) -> None:
        if self.alive:
            self._popen.send_signal(signal.SIGINT)  # as Ctrl-C would; LitServe leaves its workers behind on SIGTERM

    def end(self) -> None:
        """End all of them: kindly, and by force those that are still there after ``GRACE_SECONDS``."""
        self.ask_to_end()
        assert self._asked is not None
        while self.numbers() and time.monotonic() < self._asked + GRACE_SECONDS:
            self._popen.poll()
            time.sleep(0.02)
        for process in self.numbers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()


class Helper(Process):
    """``python FILE ARGUMENTS`` from this folder, which answers a line of JSON with a line of JSON."""

    def __init__(self, file: str, *arguments: object) -> None:
        super().__init__([sys.executable, HERE / file, *map(str, arguments)], talks=True)

    def _ask(self) -> None:
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()

    def tell(self, what: Mapping[str, object]) -> None:
        """Say what to do."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(what).encode() + b"\n")
        self._popen.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the answer. Raises ``RuntimeError`` if it says what went wrong, or there is none."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "a helper ended before it answered"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def obey(do: Callable[[dict[str, Any]], Mapping[str, object]]) -> None:
    """In a helper: do what each line says until stdin ends, and answer it; an ``OSError`` is said in the answer."""
    for line in sys.stdin:
        try:
            answer = do(json.loads(line))
        except OSError as problem:
            answer = {"error": str(problem)}
        print(json.dumps(answer), flush=True)


def pool(count: int, *, start: Literal["fork", "spawn"]) -> concurrent.futures.ProcessPoolExecutor:
    """Make a pool of processes that end with this one.

    Args:
        count: How many.
        start: ``fork`` where they need what this process has in memory; ``spawn`` where they use torch, whose threads do not survive a fork.
    """
    context = multiprocessing.get_context(start)
    return concurrent.futures.ProcessPoolExecutor(
        count, mp_context=context, initializer=_end_with, initargs=(os.getpid(),)
    )


def status_bytes(number: int, name: str) -> int:
    """A size that Linux states of a process, like ``VmRSS`` or ``VmHWM``; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _end_with(mother: int) -> None:
    """In the new process: get SIGINT when the one that started it is gone, and heed it even where that one was told to ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != mother:
        os._exit(1)
