"""The application behind gunicorn: processes that are started again when they die, several requests at once in each.

Every process opens the bundle and the store for itself, after the fork, because ONNX Runtime's threads and open databases do not
survive one; the plan that the first one makes lies on the disk for the others.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from isoform.server.admission import Admission
from isoform.server.draining import Draining
from isoform.server.http.gthread import Worker
from isoform.server.http.short import FIELDS, LINE_BYTES
from isoform.server.opening import Opening

__all__ = ["serve"]

METRICS = "isoform-metrics-"
GRACE_SECONDS = 30
"""How long requests that are under way may take when the server stops."""


class _Arbiter(Arbiter):  # type: ignore[misc]
    def __init__(self, app: _Application) -> None:
        self._drains = app
        super().__init__(app)

    def handle_term(self) -> None:
        """Not ready any longer, for a while; then stop. A second signal ends the while."""
        self._drains.draining.begin()
        until = time.monotonic() + self._drains.drain_seconds
        while (left := until - time.monotonic()) > 0:
            came = self.wait_for_signals(timeout=min(1.0, left))
            if {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT} & set(came):
                break
            if signal.SIGCHLD in came:
                self.handle_chld()
            self.murder_workers()
            self.manage_workers()
        super().handle_term()


class _Application(BaseApplication):  # type: ignore[misc]
    def __init__(self, opening: Opening, options: dict[str, Any], drain_seconds: float) -> None:
        self._opening, self._options = opening, options
        self.drain_seconds = drain_seconds
        self.draining = Draining()
        self.admission = Admission(opening.settings.queue_requests)
        near = opening.store is None or opening.store.get_backend_name() == "sqlite"
        self.by_loop = near and opening.settings.batch_samples == 1  # a batch is made of what several threads bring
        self.pulse: Callable[[], None] = _nothing
        self._stack = contextlib.ExitStack()
        super().__init__()

    def load_config(self) -> None:
        """Our options, and no file."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """In every process, after the fork."""
        from isoform.server.state import service_of  # here, as in opening.py

        app = self._stack.enter_context(self._opening.app(admission=self.admission, draining=self.draining))
        self.pulse = service_of(app).metrics.refresh
        gc.collect()
        gc.freeze()  # what was made so far stays; looking through it again and again would stop requests for milliseconds
        return app

    def run(self) -> None:
        """Serve."""
        _Arbiter(self).run()

    def close(self) -> None:
        """In every process, before it ends."""
        self._stack.close()


def serve(
    opening: Opening, *, host: str, port: int, processes: int, drain_seconds: float, ready: Callable[[str, int], None]
) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises ``SystemExit`` at the end, as gunicorn does.

    Args:
        opening: What to serve.
        host: Address to listen on.
        port: Port; 0 for a free one.
        processes: How many.
        drain_seconds: How long after SIGTERM it says that it is not ready, and answers, before it stops.
        ready: Called with host and port as soon as connections are accepted.
    """

    def when_ready(arbiter: Any) -> None:
        address = arbiter.LISTENERS[0].sock.getsockname()
        ready(address[0], address[1])

    def child_exit(_arbiter: Any, worker: Any) -> None:
        from isoform.server.metric_files import MetricFiles  # here, not above: the folder must be set before

        MetricFiles(Path(folder)).fold(worker.pid)

    application: list[_Application] = []

    def worker_exit(_arbiter: Any, _worker: Any) -> None:
        application[0].close()

    memory = Path("/dev/shm")  # gunicorn's heartbeat is a file: on a slow disk it would stall a process
    heartbeat = str(memory) if os.access(memory, os.W_OK) else None
    options = {
        "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "workers": processes, "worker_class": Worker,
        "threads": opening.request_threads, "worker_connections": 800 + opening.request_threads,  # under 1,024 open files
        "keepalive": opening.keep_alive_seconds, "graceful_timeout": GRACE_SECONDS, "timeout": 120,
        "worker_tmp_dir": heartbeat, "loglevel": "warning", "when_ready": when_ready, "worker_exit": worker_exit,
        "child_exit": child_exit,
        "proc_name": "isoform", "control_socket_disable": True, "limit_request_line": LINE_BYTES, "limit_request_fields": FIELDS,
        # No header changes a request's path, scheme or address, not even from loopback; nor does one with an underscore in its name.
        "forwarded_allow_ips": "", "forwarder_headers": "", "secure_scheme_headers": {}, "header_map": "drop",
    }  # fmt: skip
    first = os.getpid()
    _sweep(Path(heartbeat or tempfile.gettempdir()))
    folder = tempfile.mkdtemp(prefix=f"{METRICS}{first}-", dir=heartbeat)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # every process writes its numbers there, and reads all of them
    try:
        application.append(_Application(opening, options, drain_seconds))
        application[0].run()
    finally:
        if os.getpid() == first:  # the others leave through here too
            shutil.rmtree(folder, ignore_errors=True)


def _nothing() -> None:
    pass


def _sweep(folder: Path) -> None:
    """Remove what servers that were killed have left; a folder's name has the number of its first process."""
    for left in folder.glob(f"{METRICS}*"):
        number = left.name.removeprefix(METRICS).partition("-")[0]
        if not number.isdigit():
            continue
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue  # somebody else's
