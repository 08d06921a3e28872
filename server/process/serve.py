"""Run a server from an ``Opening``: the application in every process, the shared metrics folder, and the drain before stopping."""

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
"""Most connections of one process; above it the one that is idle for longest is closed."""


def forks() -> bool:
    """Whether this system can fork, so that a server can have several processes."""
    return hasattr(os, "fork")


def application_of(
    opening: Opening, *, draining: Draining | None = None, pulse: Callable[[], object] = lambda: None
) -> Asgi:
    """Create the ASGI application, which opens bundle and store when its server starts.

    Args:
        opening: The settings to open the application from.
        draining: The flag that says whether the server is about to stop; None for one that nobody sets.
        pulse: Called every second in the process that serves.
    """
    admission = Admission(opening.settings.queue_requests)
    near = opening.store is None or opening.store.get_backend_name() == "sqlite"
    return Asgi(
        lambda: opening.app(admission=admission, draining=draining), threads=opening.request_threads,
        by_loop=near and opening.settings.batch_samples == 1,  # batching needs concurrent threads to fill a batch
        pulse=pulse,
    )  # fmt: skip


def serve(
    opening: Opening, listener: socket.socket, *, processes: int, drain_seconds: float, ready: Callable[[], object]
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        opening: The settings to open the application from.
        listener: The listening socket.
        processes: Number of worker processes. Without fork the calling process serves alone.
        drain_seconds: How long after SIGTERM requests are answered while the server reports that it is not ready.
        ready: Called once requests are answered.

    Raises:
        EngineError: If no process can start.
    """
    from isoform.server.process import uvicorn  # here: other ASGI servers use ``application_of`` without it

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

    memory = Path("/dev/shm")  # every count writes to these memory-mapped files, and a slow disk would stall a process
    folder = _folder(memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir()))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(
        folder
    )  # every process writes its metrics there, and any of them reads all

    def ended(number: int) -> None:
        from isoform.server.telemetry.metric_files import MetricFiles  # here, not above: the folder must be set before

        MetricFiles(folder).fold(number)

    try:
        Processes(lambda sign: run(sign.give, sign), processes, ended=ended).serve(listener, ready=ready, drain=drain)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _once(call: Callable[[], object]) -> Callable[[], None]:
    """A function that calls ``call`` at its first call only."""
    left = [call]

    def first() -> None:
        if left:
            left.pop()()

    return first


def _folder(parent: Path) -> Path:
    """Create a folder for metrics, and remove stale ones of killed servers. A folder's name has the pid of its server's first process."""
    for left in parent.glob(f"{METRICS}*"):
        number = left.name.removeprefix(METRICS).partition("-")[0]
        if not number.isdigit():
            continue
        try:
            os.kill(int(number), 0)  # signal 0 only checks that the process exists
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue  # another user's process
    return Path(tempfile.mkdtemp(prefix=f"{METRICS}{os.getpid()}-", dir=parent))
