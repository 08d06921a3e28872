"""A client in a closed loop that costs as little as Python can: ``python http_client.py``, which is told what to do by lines of JSON.

Every connection stays open, sends its next request as soon as its answer is complete, and does nothing in between. Requests are bytes
that were made before; of an answer only its length is read. Told is one line,

    {"port", "protocol": "http" or "grpc", "connections", "seconds", "head", "body": base64, "users"?: [names], "each"?: true}

and answered with ``{"seconds", "latencies_us": [...], "answers"}``: those that came in time, and how many there were in all. ``{user}``
in the head becomes a random one of the users' names; with ``each`` it becomes every one in turn, and the loop ends when all had their
answer.
"""

from __future__ import annotations

import base64
import gc
import itertools
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Connection", "HttpConnection", "closed_loop", "connect"]

PATIENCE_MS = 30_000
"""How long an answer may take."""


class Connection(Protocol):
    """One open connection, which has at most one request under way."""

    socket: socket.socket
    head: str
    """The last answer's header, in lower case; empty for gRPC."""
    answer: bytes
    """The last answer's body, or message."""

    def send(self, request: bytes) -> None:
        """Send all of a request."""

    def receive(self) -> bool:
        """Read what is there; wait if there is nothing. Returns whether the answer is complete. Raises if it is no success."""


class HttpConnection:
    """HTTP/1.1, kept alive."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", PATIENCE_MS // 1000, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.head, self.answer = "", b""
        self._data, self._end = b"", -1

    def send(self, request: bytes) -> None:
        """Send all of a request, head and body."""
        self._data, self._end = b"", -1
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Read what is there. Raises ``ConnectionError`` if it is not the beginning of an answer of known length with status 200."""
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise ConnectionError(f"the server closed the connection after {self._data[:200]!r}")
        data = self._data = self._data + piece if self._data else piece
        if self._end < 0:
            place = data.find(b"\r\n\r\n")
            if place < 0:
                return False
            head = data[:place].lower()
            start = head.find(b"\r\ncontent-length:")
            if not head.startswith(b"http/1.1 200") or start < 0:
                raise ConnectionError(f"status 200 and a Content-Length were expected, but this came: {data[:400]!r}")
            self._end = place + 4 + int(head[start + 17 :].split(b"\r\n", 1)[0])
            self.head, self._body = head.decode("latin-1"), place + 4
        if len(data) < self._end:
            return False
        self.answer = data[self._body : self._end]
        return True


def connect(protocol: str, port: int) -> Connection:
    """A new connection to this machine."""
    if protocol == "grpc":
        from bench.serving.grpc_client import GrpcConnection

        return GrpcConnection(port)
    return HttpConnection(port)


def closed_loop(
    connections: Sequence[Connection], requests: Iterator[bytes], *, seconds: float
) -> tuple[float, list[float], int]:
    """Send and receive until the time is over, or no request is left.

    Args:
        connections: Open ones; each has answered once, so that what is new to the server is not measured.
        requests: What to send next, on whichever connection is free.
        seconds: How long, but at least until there are as many answers as connections; later ones are awaited, but not counted.

    Returns:
        How long it was, the seconds that each answer took, and how many answers came later.
    """
    poll, by_number, sent = select.poll(), {c.socket.fileno(): c for c in connections}, dict[int, float]()
    clock, latencies, busy, late = time.perf_counter, list[float](), 0, 0
    began = last = clock()
    end = began + seconds
    for number, connection in by_number.items():
        request = next(requests, None)
        if request is not None:
            poll.register(number, select.POLLIN)
            sent[number] = clock()
            connection.send(request)
            busy += 1
    alone = [(next(iter(by_number)), select.POLLIN)] if len(by_number) == 1 else None
    while busy:
        ready = alone or poll.poll(PATIENCE_MS)  # one connection is waited for by reading it
        if not ready:
            raise TimeoutError(f"no answer came within {PATIENCE_MS / 1000:.0f} s")
        for number, _ in ready:
            connection = by_number[number]
            if not connection.receive():
                continue
            now, request = clock(), None
            if now < end or len(latencies) < len(connections):
                latencies.append(now - sent[number])
                last, request = now, next(requests, None)
            else:
                late += 1
            if request is None:
                busy -= 1
                poll.unregister(number)
                continue
            sent[number] = clock()
            connection.send(request)
    exhausted = next(requests, None) is None
    return (last - began if exhausted else max(seconds, last - began)), latencies, late


def _requests(told: dict[str, Any]) -> Iterator[bytes]:
    body = base64.b64decode(told["body"])
    names = told.get("users") or [""]
    requests = [told["head"].replace("{user}", name).encode("latin-1") for name in names]
    if told["protocol"] == "grpc" or not told.get("users"):
        return itertools.repeat(requests[0] + body)
    if told.get("each"):
        return (head + body for head in requests)
    order = random.Random(told.get("seed", 0)).choices(range(len(names)), k=1 << 14)
    return (requests[number] + body for number in itertools.cycle(order))


def _keep_busy(told: dict[str, Any]) -> dict[str, object]:
    connections = [connect(told["protocol"], told["port"]) for _ in range(told["connections"])]
    first = next(_requests(told))
    for connection in connections:
        connection.send(first)
        while not connection.receive():
            pass
    requests = _requests(told)
    gc.collect()
    gc.disable()
    seconds, latencies, late = closed_loop(connections, requests, seconds=told["seconds"])
    gc.enable()
    for connection in connections:
        connection.socket.close()
    answers = len(connections) + len(latencies) + late
    return {"seconds": seconds, "latencies_us": [round(1e6 * value) for value in latencies], "answers": answers}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from bench.processes import obey

    obey(_keep_busy)
