"""``isoform serve`` as a child of a test."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

from support import ISOFORM

__all__ = ["Served", "ask", "serving"]


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], started: dict[str, Any]) -> None:
        self.process, self.started, self.url = process, started, str(started["url"])
        self.errors = ""
        """What it had written to stderr, once it has ended."""
        host, _, port = self.url.rpartition("//")[2].rpartition(":")
        self.address = host.strip("[]"), int(port) if port.isdigit() else 0


def ask(
    server: Served, method: str, path: str, data: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Message, Any]:
    """Status, headers and body of an answer."""
    kind = {} if data is None else {"Content-Type": "application/octet-stream"}  # not a form's, which urllib would say
    request = urllib.request.Request(server.url + path, data, {**kind, **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, problem.headers, json.loads(problem.read())


@contextlib.contextmanager
def serving(bundle: Path, *words: str | Path) -> Iterator[Served]:
    """Serve on a free port, on loopback; at the end the server is told to stop, and must do so without a traceback."""
    command = [*ISOFORM, "serve", str(bundle), "--port", "0", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, process.communicate(timeout=20)[1]
        served = Served(process, json.loads(first))
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            _, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, errors
    assert "Traceback" not in errors, errors
    served.errors = errors
