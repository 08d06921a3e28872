"""The processes of a server: they share connections evenly, are started again when they die or hang, and do not outlive the first one."""

import collections
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from serving import Served, ask, serving
from support import ISOFORM

from isoform.server.process.processes import Sign, Signs

PATIENCE_SECONDS = 30


def children(number: int) -> list[int]:
    """Processes that one has forked."""
    return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def alive(number: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return ") Z" not in Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False


def becomes(condition) -> bool:
    """Whether something is true within a while."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    return bool(found)


def process_of(connection: http.client.HTTPConnection) -> str:
    """Which process answers: ids of requests begin with what is its own."""
    connection.request("GET", "/v2/health/live")
    answer = connection.getresponse()
    answer.read()
    return answer.headers["X-Request-Id"][:12]


def shares(server, count: int, *, gap_seconds: float = 0.0) -> list[int]:
    """How many of so many connections, open at the same time, each process has."""
    with contextlib.ExitStack() as stack:
        connections = list[http.client.HTTPConnection]()
        for _ in range(count):
            connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE_SECONDS)
            connection.connect()
            connections.append(stack.enter_context(contextlib.closing(connection)))
            time.sleep(gap_seconds)
        return sorted(collections.Counter(map(process_of, connections)).values())


@pytest.mark.parametrize("gap_seconds", [0.0, 0.005], ids=["at once", "one by one"])
def test_connections_are_spread_evenly(gap_seconds, compiled) -> None:
    """Of connections that stay open, as a balancer's do, every process has as many."""
    with serving(compiled, "--open", "--store", "none", "--workers", "3") as server:
        assert becomes(lambda: len(shares(server, 9)) == 3)  # all of them have started
        # A process that gets no CPU time for 2 ms loses its turn, so on a busy machine a few tries may be uneven.
        tries = [shares(server, 30, gap_seconds=gap_seconds) for _ in range(11)]
        assert all(len(found) == 3 for found in tries), tries
        assert statistics.median(found[0] for found in tries) >= 9, tries


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_dies_is_started_again(number, compiled) -> None:
    """While another one answers."""
    with serving(compiled, "--open", "--store", "none", "--workers", "2") as server:
        before = children(server.process.pid)
        assert len(before) == 2
        os.kill(before[0], number)
        for _ in range(5):
            assert ask(server, "GET", "/v2/models/plain")[0] == 200
        assert becomes(lambda: len(set(children(server.process.pid)) - set(before)) == 1)
        assert before[1] in children(server.process.pid)


def test_a_process_that_has_just_begun_hears_that_it_is_to_stop(compiled) -> None:
    """SIGTERM to the server while a new process is between its fork and its first line ends both."""
    code = """
import os, sys, time
from isoform.runtime.cli import main
os.register_at_fork(after_in_child=lambda: time.sleep(1))
sys.exit(main())
"""
    command = [sys.executable, "-c", code, "serve", str(compiled), "--open", "--store", "none", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            (first,) = children(process.pid)
            time.sleep(1.5)  # one that dies young is not started again at once
            os.kill(first, signal.SIGKILL)
            assert becomes(lambda: set(children(process.pid)) - {first})
            process.terminate()
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def test_a_process_that_hangs_is_replaced(compiled) -> None:
    """One that shows no sign of life for a while: here one that is stopped, and a while of two seconds."""
    code = """
import sys
from isoform.runtime.cli import main
from isoform.server.process import processes
processes.SILENT_SECONDS = 2.0
sys.exit(main())
"""
    command = [sys.executable, "-c", code, "serve", str(compiled), "--open", "--store", "none", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            (hung,) = children(process.pid)
            os.kill(hung, signal.SIGSTOP)
            assert becomes(lambda: not alive(hung))
            host, port = re.fullmatch(r"http://(.*):(\d+)", url).groups()
            connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_SECONDS)
            with contextlib.closing(connection):
                assert process_of(connection)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0


def test_nobody_outlives_the_first_process(compiled) -> None:
    """When that is killed, the others stop by themselves."""
    command = [*ISOFORM, "serve", str(compiled), "--open", "--store", "none", "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        others = children(process.pid)
        assert len(others) == 2
        process.kill()
    assert becomes(lambda: not any(map(alive, others)))


def test_a_server_that_cannot_start(compiled, tmp_path) -> None:
    """A process that fails before it has ever answered is not tried again and again: one line says why, another that it is over."""
    code = """
import sys
from isoform.runtime import errors, runtime
from isoform.runtime.cli import main
def fail(*_, **__):
    raise errors.EngineError("the engine is out of order")
runtime.Runtime.open = fail
sys.exit(main())
"""
    command = [sys.executable, "-c", code, "serve", str(compiled), "--open", "--store", "none", "--port", "0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    first, last = result.stderr.splitlines()
    assert first.endswith("the engine is out of order")
    assert "could not start" in last


LIKE_WINDOWS = """
import asyncio, os, signal, sys
import isoform.runtime.formats.bundle  # which asks for the name of the system
for module in ("fcntl", "resource", "uvloop"):
    sys.modules[module] = None
del os.fork, signal.SIGQUIT
from isoform.runtime.cli import main
sys.exit(main())
"""


def like_windows(bundle: Path, *words: str) -> list[str]:
    """The command where there is no fork, no lock of files, no uvloop."""
    return [
        sys.executable,
        "-c",
        LIKE_WINDOWS,
        "serve",
        str(bundle),
        "--open",
        "--store",
        "none",
        "--port",
        "0",
        *words,
    ]


def test_one_process_where_none_can_be_forked(compiled) -> None:
    """As on Windows: the same answers and metrics by the process itself, which drains and stops; several processes are refused."""
    command = like_windows(compiled, "--drain-seconds", "2")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        server = Served(process, started)
        assert children(process.pid) == []
        assert ask(server, "GET", "/v2/health/ready")[0] == 200
        assert ask(server, "GET", "/v2/models/plain")[0] == 200
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=20) as page:
            assert b"isoform_requests_total" in page.read()
        process.send_signal(signal.SIGTERM)
        assert becomes(lambda: ask(server, "GET", "/v2/health/ready")[0] == 503)
        assert ask(server, "GET", "/v2/models/plain")[0] == 200
        assert process.wait(PATIENCE_SECONDS) == 0
        assert process.stderr is not None
        assert len(process.stderr.read().splitlines()) == 2  # that it serves, and that it was not ready
    command = like_windows(compiled, "--workers", "2")
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "cannot fork" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_ctrl_c_twice(compiled) -> None:
    """The first stops the server when what is under way is done; the second one now."""
    with subprocess.Popen(
        [*ISOFORM, "serve", str(compiled), "--open", "--store", "none", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        host, port = re.fullmatch(r"http://(.*):(\d+)", url).groups()
        with socket.create_connection((host, int(port)), timeout=20) as half:
            half.sendall(b"POST /v2/models/plain/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            time.sleep(0.3)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            time.sleep(1)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert time.monotonic() - began < 10


def test_signs() -> None:
    """A process that is not there is not waited for; counts are each process's own."""
    signs = Signs(3)
    one, two = Sign(signs, 0), Sign(signs, 1)
    one.tell(7)
    assert two.fewest == 7
    two.tell(3)
    assert (one.fewest, one.last) == (3, 0.0)
    two.forget()
    assert one.fewest == 7
