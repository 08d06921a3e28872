"""``isoform serve`` as a child of a test."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import ISOFORM

__all__ = ["Served", "serving"]


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], started: dict[str, Any]) -> None:
        self.process, self.started, self.url = process, started, str(started["url"])
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        self.address = host, int(port)


@contextlib.contextmanager
def serving(bundle: Path, *words: str | Path) -> Iterator[Served]:
    """Serve on a free port, on loopback; at the end the server is told to stop, and must do so without a traceback."""
    command = [*ISOFORM, "serve", str(bundle), "--port", "0", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, process.communicate(timeout=20)[1]
        yield Served(process, json.loads(first))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            _, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, errors
    assert "Traceback" not in errors, errors
