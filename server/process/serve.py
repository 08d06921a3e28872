"""From what to open to a server that runs: the application in every process, their numbers in one folder, how they stop."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from isoform.server.capacity.admission import Admission
from isoform.server.http.asgi import Asgi
from isoform.server.opening import Opening
from isoform.server.process.accepting import Counts
from isoform.server.process.listening import raise_file_limit
from isoform.server.service.draining import Draining

__all__ = ["application_of", "forks", "serve"]

METRICS = "isoform-metrics-"
CONNECTIONS = 4096
"""Of one process; the one that is idle for longest makes room for a new one."""


def forks() -> bool:
    """Whether a server can have several processes here."""
    return hasattr(os, "fork")


def application_of(
    opening: Opening, *, draining: Draining | None = None, pulse: Callable[[], object] = lambda: None
) -> Asgi:
    """The ASGI application, which opens what it needs when its server starts.

    Args:
        opening: What to serve.
        draining: Whether the server is about to stop; None if nobody tells.
        pulse: Called every second in the process that serves.
    """
    admission = Admission(opening.settings.queue_requests)
    near = opening.store is None or opening.store.get_backend_name() == "sqlite"
    return Asgi(
        lambda: opening.app(admission=admission, draining=draining), threads=opening.request_threads,
        by_loop=near and opening.settings.batch_samples == 1,  # a batch is made of what several threads bring
        pulse=pulse,
    )  # fmt: skip


def serve(
    opening: Opening, listener: socket.socket, *, processes: int, drain_seconds: float, ready: Callable[[], object]
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        opening: What to serve.
        listener: A socket that listens.
        processes: How many; one where this process cannot fork, which is itself then.
        drain_seconds: How long after SIGTERM it says that it is not ready, and answers, before it stops.
        ready: Called as soon as requests are answered.

    Raises:
        EngineError: If no process can start.
    """
    from isoform.server.process import uvicorn

    draining, connections = Draining(), raise_file_limit(CONNECTIONS)

    def drain() -> float:
        draining.begin()
        return drain_seconds

    def run(pulse: Callable[[], object], counts: Counts | None = None, told: Callable[[], float] = lambda: 0.0) -> None:
        uvicorn.serve(
            application_of(opening, draining=draining, pulse=pulse), listener, keep_alive_seconds=opening.keep_alive_seconds,
            connections=connections, tls=opening.tls, counts=counts, told=told,
        )  # fmt: skip

    if not forks():
        run(_once(ready), told=drain)
        return
    from isoform.server.process.processes import Processes

    memory = Path("/dev/shm")  # counting is writing to these files: a slow disk would stall a process
    folder = _folder(memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir()))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(
        folder
    )  # every process writes its numbers there, and reads all of them

    def ended(number: int) -> None:
        from isoform.server.telemetry.metric_files import MetricFiles  # here, not above: the folder must be set before

        MetricFiles(folder).fold(number)

    try:
        Processes(lambda sign: run(sign.give, sign), processes, ended=ended).serve(listener, ready=ready, drain=drain)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _once(call: Callable[[], object]) -> Callable[[], None]:
    """What calls something when it is called for the first time."""
    left = [call]

    def first() -> None:
        if left:
            left.pop()()

    return first


def _folder(parent: Path) -> Path:
    """A new folder for numbers; those that servers left that were killed go. A folder's name has the number of its first process."""
    for left in parent.glob(f"{METRICS}*"):
        number = left.name.removeprefix(METRICS).partition("-")[0]
        if not number.isdigit():
            continue
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue  # somebody else's
    return Path(tempfile.mkdtemp(prefix=f"{METRICS}{os.getpid()}-", dir=parent))
