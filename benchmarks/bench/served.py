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

__all__ = ["Killer", "Restarter", "Served", "served"]


@dataclasses.dataclass(frozen=True)
class Served:
    """A running server."""

    host: str
    port: int
    pid: int
    """Of gunicorn's arbiter, which takes no requests itself."""
    log: Path
    """What it writes to stderr."""

    def workers(self) -> list[int]:
        """The processes that answer requests: the arbiter's children that live."""
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


class Killer:
    """Kills one worker, any of them, by SIGKILL at regular times. A context manager.

    Args:
        server: Whose workers.
        every: Seconds between two kills; None to kill nobody.
        seconds: For so long.
        seed: Of the choice.
    """

    def __init__(self, server: Served, every: float | None, *, seconds: float, seed: int = 0) -> None:
        self._server, self._every, self._rng = server, every, random.Random(seed)
        self._until = time.monotonic() + seconds
        self._over, self.killed = threading.Event(), 0
        self._thread = threading.Thread(target=self._work, name="killer")

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while self._every is not None and not self._over.wait(self._every) and time.monotonic() < self._until:
            workers = self._server.workers()
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._rng.choice(workers), signal.SIGKILL)
                    self.killed += 1


class Restarter:
    """Stops a database and starts it again at regular times. A context manager.

    Args:
        stopped: A context manager's maker: the database is stopped inside, and started at its end.
        every: Seconds between two restarts; None to leave it alone.
        seconds: For so long.
        away: How long it stays stopped, in seconds.
    """

    def __init__(
        self, stopped: Callable[[], contextlib.AbstractContextManager[None]], every: float | None, *, seconds: float, away: float = 1.0
    ) -> None:  # fmt: skip
        self._stopped, self._every, self._away = stopped, every, away
        self._until = time.monotonic() + seconds
        self._over, self.restarted = threading.Event(), 0
        self._thread = threading.Thread(target=self._work, name="restarter")

    def __enter__(self) -> Restarter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while self._every is not None and not self._over.wait(self._every) and time.monotonic() < self._until:
            with self._stopped():
                self._over.wait(self._away)
            self.restarted += 1


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
