"""``isoform serve`` as a child process: started, its workers killed now and then, stopped, and what it said on stderr. Linux."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Regularly", "Served", "kills", "restarts", "served"]


@dataclasses.dataclass(frozen=True)
class Served:
    """A running server."""

    host: str
    port: int
    pid: int
    """Of its first process, which takes no requests itself."""
    log: Path
    """What it writes to stderr."""

    def workers(self) -> list[int]:
        """The processes that answer requests: the first one's children that live."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == self.pid and state != "Z":
                    found.append(int(entry.name))
        return sorted(found)

    def memory_bytes(self) -> int:
        """Resident memory of all workers together."""
        pages = 0
        for pid in self.workers():
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


class Regularly:
    """Does something at regular times, in a thread of its own. A context manager.

    Args:
        what: What to do; returns whether it was done. Is handed an event that is set at the end of the block.
        every: Seconds between two times; None to do nothing.
        seconds: For so long.
    """

    def __init__(self, what: Callable[[threading.Event], bool], every: float | None, *, seconds: float) -> None:
        self._what, self._every = what, every
        self._until = time.monotonic() + seconds
        self._over, self.times = threading.Event(), 0
        self._thread = threading.Thread(target=self._work, name="regularly")

    def __enter__(self) -> Regularly:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while self._every is not None and not self._over.wait(self._every) and time.monotonic() < self._until:
            self.times += self._what(self._over)


def kills(server: Served, *, seed: int) -> Callable[[threading.Event], bool]:
    """Kill one worker of a server, any of them, by SIGKILL."""
    rng = random.Random(seed)

    def kill(_: threading.Event) -> bool:
        workers = server.workers()
        with contextlib.suppress(ProcessLookupError):
            if workers:
                os.kill(rng.choice(workers), signal.SIGKILL)
                return True
        return False

    return kill


def restarts(
    stopped: Callable[[], contextlib.AbstractContextManager[None]], *, away: float = 1.0
) -> Callable[[threading.Event], bool]:
    """Restart a database.

    Args:
        stopped: Makes a context manager in which the database is stopped.
        away: How long it stays stopped, in seconds.
    """

    def restart(over: threading.Event) -> bool:
        with stopped():
            over.wait(away)
        return True

    return restart


@contextlib.contextmanager
def served(bundle: Path, store: str, log: Path, *flags: str) -> Iterator[Served]:
    """Start a server on a free port of loopback, and stop it as an operator does.

    Args:
        bundle: A compiled bundle.
        store: As ``--store`` takes it.
        log: A file for what it says.
        *flags: More of ``isoform serve``'s flags.

    Raises:
        RuntimeError: If it does not start, or does not end well.
    """
    command = [
        sys.executable, "-m", "isoform.runtime.cli", "serve", str(bundle), "--port", "0", "--store", store, *flags,
    ]  # fmt: skip
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        if not first:
            raise RuntimeError(f"the server did not start: {log.read_text().strip()[-400:]}")
        host, port = json.loads(first)["url"].removeprefix("http://").split(":")
        try:
            yield Served(host, int(port), process.pid, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise RuntimeError("the server did not stop within 60 s of SIGTERM") from None
        if process.returncode != 0:
            raise RuntimeError(f"the server ended with {process.returncode}: {log.read_text().strip()[-400:]}")
