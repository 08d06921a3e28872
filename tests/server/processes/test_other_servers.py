"""The same application under other ASGI servers, and behind what nginx needs: every server's own command, real sockets."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from bodies import INFER, binary

from isoform.runtime.errors import UsageError
from isoform.server.asgi import WORDS, application

FACTORY = "isoform.server.asgi:application"
COMMANDS = {
    "uvicorn": ["uvicorn", "--factory", FACTORY, "--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning"],
    "uvicorn, h11 and asyncio": ["uvicorn", "--factory", FACTORY, "--port", "{port}", "--loop", "asyncio", "--http", "h11"],
    "granian": ["granian", "--interface", "asgi", "--factory", FACTORY, "--port", "{port}", "--no-ws"],
    "hypercorn": ["hypercorn", f"{FACTORY}()", "--bind", "127.0.0.1:{port}"],
}  # fmt: skip


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def under(command, words, log):
    """A server that runs by its own command, and its URL."""
    port = free_port()
    filled = [sys.executable, "-m", *(word.format(port=port) for word in command)]
    with open(log, "w") as said:
        process = subprocess.Popen(filled, stdout=said, stderr=said, env=os.environ | {WORDS: words})
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("server", COMMANDS)
def test_the_same_answers_under_any_server(server, compiled, runtime, samples, tmp_path) -> None:
    """Predictions to the bit, in both forms of routes; signatures that are put; a body that is not sent is not waited for."""
    x = samples[0][:3]
    body, headers = binary(x)
    signature = runtime.signature("plain").keep("mixture")
    with under(COMMANDS[server], f"{compiled} --open --store {tmp_path / 's.db'}", tmp_path / "log") as url:

        def ask(method: str, path: str, data: bytes | None = None, headers: dict | None = None) -> tuple[int, bytes]:
            media = {"Content-Type": "application/octet-stream"} if data else {}
            request = urllib.request.Request(url + path, data, {**media, **(headers or {})}, method=method)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as problem:
                with problem:
                    return problem.code, problem.read()

        status, answer = ask("POST", INFER, body, headers)
        assert status == 200
        found = np.array(json.loads(answer)["outputs"][0]["data"], np.float32).reshape(3, 10)
        assert np.array_equal(found, runtime.predict(x, runtime.signature("plain")))
        assert ask("PUT", "/v1/models/plain/signatures/alice", signature.encode())[0] == 201
        assert ask("GET", "/v1/models/plain/signatures/alice/file") == (200, signature.encode())
        assert ask("GET", "/v2/models/nobody")[0] == 404
        assert ask("GET", "/metrics")[0] == 200
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            head = f"POST /v2/models/nobody/infer HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2000000\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(12) == b"HTTP/1.1 404"


def test_without_words(monkeypatch) -> None:
    """What is to be served must be said."""
    monkeypatch.delenv(WORDS, raising=False)
    with pytest.raises(UsageError, match=f"{WORDS} is empty"):
        application()


@pytest.mark.parametrize("words", ["--workers 2", "--port 9", "--tls-key x", "--keep-alive 3"])
def test_words_for_the_server_itself(words, monkeypatch) -> None:
    """What would have no effect is refused."""
    monkeypatch.setenv(WORDS, f"bundle --open {words}")
    with pytest.raises(UsageError, match=f"{words.split()[0]}, which is an option of the ASGI server"):
        application()
