"""The application behind gunicorn: processes that are started again when they die, several requests at once in each.

Every process opens the bundle and the store for itself, after the fork, because ONNX Runtime's threads and open databases do not
survive one; the plan that the first one makes lies on the disk for the others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from isoform.server.opening import Opening
from isoform.server.patience import PatientWorker

__all__ = ["serve"]

KEEP_ALIVE_SECONDS = 15
GRACE_SECONDS = 30
"""How long requests that are under way may take when the server stops."""


class _Application(BaseApplication):  # type: ignore[misc]
    def __init__(self, opening: Opening, options: dict[str, Any]) -> None:
        self._opening, self._options = opening, options
        self._stack = contextlib.ExitStack()
        super().__init__()

    def load_config(self) -> None:
        """Our options, and no file."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """In every process, after the fork."""
        return self._stack.enter_context(self._opening.app())

    def close(self) -> None:
        """In every process, before it ends."""
        self._stack.close()


def serve(opening: Opening, *, host: str, port: int, processes: int, ready: Callable[[str, int], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises ``SystemExit`` at the end, as gunicorn does.

    Args:
        opening: What to serve.
        host: Address to listen on.
        port: Port; 0 for a free one.
        processes: How many.
        ready: Called with host and port as soon as connections are accepted.
    """

    def when_ready(arbiter: Any) -> None:
        address = arbiter.LISTENERS[0].sock.getsockname()
        ready(address[0], address[1])

    def child_exit(_arbiter: Any, worker: Any) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]

    application: list[_Application] = []

    def worker_exit(_arbiter: Any, _worker: Any) -> None:
        application[0].close()

    memory = Path("/dev/shm")  # gunicorn's heartbeat is a file: on a slow disk it would stall a process
    heartbeat = str(memory) if os.access(memory, os.W_OK) else None
    options = {
        "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "workers": processes, "worker_class": PatientWorker,
        "threads": opening.request_threads, "keepalive": KEEP_ALIVE_SECONDS, "graceful_timeout": GRACE_SECONDS, "timeout": 120,
        "worker_tmp_dir": heartbeat, "loglevel": "warning", "when_ready": when_ready, "worker_exit": worker_exit,
        "child_exit": child_exit,
        "proc_name": "isoform", "limit_request_line": 4094, "limit_request_fields": 64,
    }  # fmt: skip
    folder = tempfile.mkdtemp(prefix="isoform-metrics-", dir=heartbeat)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # every process writes its numbers there, and reads all of them
    first = os.getpid()
    try:
        application.append(_Application(opening, options))
        application[0].run()
    finally:
        if os.getpid() == first:  # the others leave through here too
            shutil.rmtree(folder, ignore_errors=True)
