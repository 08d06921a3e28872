"""The servers: how each is started in its own documented way, and which forms of request it takes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from bench.processes import Process

__all__ = ["Server", "start_flask", "start_isoform", "start_litserve", "start_mlserver", "wait_until_ready"]

RIVALS = Path(__file__).parent / "rivals"
START_SECONDS = 120


@dataclasses.dataclass(frozen=True, eq=False)
class Server:
    """One that runs."""

    name: str
    """``isoform``, ``litserve``, ``mlserver`` or ``flask``."""
    setting: str
    """What was chosen among what it can be set to."""
    process: Process
    ports: Mapping[str, int]
    """Of its forms: ``json``, and those in which it takes bytes."""
    health: str
    """Path that answers 200 once it is ready."""

    restless: bool = False
    """Whether it uses its processors while nobody asks, so that it must be stopped while others are measured."""

    @property
    def title(self) -> str:
        """Name and setting."""
        return f"{self.name}, {self.setting}"


def start_isoform(
    bundle: Path, folder: Path, *, workers: int, threads: int = 4, store: Path | None = None, cache_mb: int = 256
) -> Server:
    """Ours: the command as it is."""
    port = _free_port()
    command = [
        sys.executable, "-m", "isoform.runtime.cli", "serve", bundle, "--open", "--port", port, "--workers", workers, "--threads", threads,
        "--store", store or folder / f"isoform-{port}.db", "--cache-mb", cache_mb,
    ]  # fmt: skip
    process = Process([str(word) for word in command], log=folder / f"isoform-{port}.log", folder=folder)
    ports = {"json": port, "binary": port}
    return Server("isoform", f"{workers} × {threads} threads", process, ports, "/v2/health/ready")


def start_flask(model: Path, folder: Path, *, workers: int, threads: int = 4) -> Server:
    """Flask and ONNX Runtime alone, behind gunicorn with as many processes and threads as ours."""
    port = _free_port()
    command = [
        sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", str(workers), "--worker-class", "gthread",
        "--threads", str(threads), "--keep-alive", "15", "--timeout", "120", "--log-level", "warning", "--worker-tmp-dir", "/dev/shm",
        "--chdir", str(RIVALS), "rival_flask:app",
    ]  # fmt: skip
    process = Process(command, environment={"MODEL": str(model)}, log=folder / f"flask-{port}.log", folder=folder)
    return Server("flask", f"{workers} × {threads} threads", process, {"json": port, "binary": port}, "/health")


def start_litserve(python: Path, model: Path, folder: Path, *, workers: int, queue: str, batch: int) -> Server:
    """LitServe, in an environment of its own."""
    port = _free_port()
    command = [python, RIVALS / "rival_litserve.py", port, workers, queue, batch]
    process = Process(
        [str(word) for word in command], environment={"MODEL": str(model)}, log=folder / f"litserve-{port}.log", folder=folder
    )  # fmt: skip
    setting = f"{workers} workers, {queue} queue{_batches(batch)}"
    return Server("litserve", setting, process, {"json": port, "binary": port}, "/health", restless=True)


def start_mlserver(python: Path, model: Path, folder: Path, *, workers: int, batch: int) -> Server:
    """MLServer, in an environment of its own; without workers it predicts in the process that listens."""
    rest, grpc, metrics = (_free_port() for _ in range(3))
    home = folder / f"mlserver-{rest}"
    home.mkdir()
    shutil.copy(RIVALS / "rival_mlserver.py", home)
    settings = {
        "debug": False, "host": "127.0.0.1", "http_port": rest, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": workers
    }  # fmt: skip
    (home / "settings.json").write_text(json.dumps(settings))
    together = {"max_batch_size": batch, "max_batch_time": 0.001} if batch > 1 else {}
    model_settings = {"name": "base", "implementation": "rival_mlserver.Network", **together}
    (home / "model-settings.json").write_text(json.dumps(model_settings))
    environment = {"MODEL": str(model), "PYTHONPATH": str(home)}
    command = [python.parent / "mlserver", "start", "."]
    process = Process(command, environment=environment, log=folder / f"mlserver-{rest}.log", folder=home)
    ports = {"json": rest, "base64": rest, "grpc": grpc}
    setting = (f"{workers} workers" if workers else "in process") + _batches(batch)
    return Server("mlserver", setting, process, ports, "/v2/models/base/ready", restless=True)


def wait_until_ready(server: Server) -> None:
    """Return once it answers. Raises ``RuntimeError`` with the end of its log if it dies, or takes two minutes."""
    end = time.monotonic() + START_SECONDS
    while server.process.alive and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.ports['json']}{server.health}", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    log = server.process.log.read_text()[-2000:] if server.process.log else ""
    raise RuntimeError(f"{server.title} did not start:\n{log}")


def _batches(batch: int) -> str:
    return f", batches of {batch}" if batch > 1 else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
