"""Load on servers: client processes, what they measured, and whether every server computes the same."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np

from bench.processes import Helper
from bench.serving.http_client import connect
from bench.serving.http_servers import Server
from bench.serving.wire import Wire, logits_in, wire
from isoform.runtime.arrays import Array

__all__ = ["Block", "Load", "difference", "loading", "median"]


@dataclasses.dataclass(frozen=True)
class Block:
    """What came of some seconds of load."""

    rps: float
    """Answers per second."""
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """Processor time of the server per answer, in all of its processes."""


class Load:
    """Client processes that share the connections."""

    def __init__(self, clients: Sequence[Helper]) -> None:
        self._clients, self._seed = clients, 0

    def __call__(
        self, server: Server, form: str, request: Wire, *, connections: int, seconds: float = 0.0, users: Sequence[str] = (),
        each: bool = False,
    ) -> Block:  # fmt: skip
        """Keep a server busy.

        Args:
            server: Which.
            form: One of its forms.
            request: What to send, in that form.
            connections: How many are open; each has one request under way at a time.
            seconds: How long.
            users: Whose names belong into the request; each time another one, at random.
            each: Every name once instead, however long it takes.

        Raises:
            RuntimeError: If an answer is no success, or does not come.
        """
        with _awake(server):
            return self._block(server, form, request, connections=connections, seconds=seconds, users=users, each=each)

    def _block(
        self, server: Server, form: str, request: Wire, *, connections: int, seconds: float, users: Sequence[str], each: bool
    ) -> Block:  # fmt: skip
        clients, before = self._clients[:connections], server.process.cpu_seconds()
        for place, client in enumerate(clients):
            self._seed += 1
            told = {
                "port": server.ports[form], "protocol": request.protocol, "seconds": 1e6 if each else seconds, "head": request.head, "seed": self._seed,
                "body": base64.b64encode(request.body).decode(), "users": list(users[place :: len(clients)] if each else users),
                "each": each, "connections": len(range(place, connections, len(clients))),
            }  # fmt: skip
            client.tell(told)
        answers = [client.answer() for client in clients]
        spent = server.process.cpu_seconds() - before
        latencies = np.concatenate([answer["latencies_us"] for answer in answers])
        rps = sum(len(answer["latencies_us"]) / answer["seconds"] for answer in answers)
        p50, p99 = np.percentile(latencies, (50, 99)) / 1e3
        return Block(rps, float(p50), float(p99), 1e3 * spent / sum(answer["answers"] for answer in answers))


@contextlib.contextmanager
def _awake(server: Server) -> Iterator[None]:
    """Let a restless server run for as long as the ``with`` block lasts."""
    if server.restless:
        server.process.resume()
        time.sleep(0.03)
    try:
        yield
    finally:
        if server.restless:
            server.process.pause()


@contextlib.contextmanager
def loading(clients: int) -> Iterator[Load]:
    """So many client processes, for as long as the ``with`` block lasts."""
    with contextlib.ExitStack() as stack:
        yield Load([stack.enter_context(Helper("serving/http_client.py")) for _ in range(clients)])


def median(blocks: Sequence[Block]) -> Block:
    """Of each figure."""
    return Block(*(float(np.median([getattr(b, f.name) for b in blocks])) for f in dataclasses.fields(Block)))


def difference(server: Server, form: str, samples: Array, expected: Array, *, user: str | None = None) -> float:
    """Ask once, and compare: the largest difference of a logit, over the largest logit."""
    with _awake(server):
        request = wire(server.name, form, samples, named=user is not None)
        connection = connect(request.protocol, server.ports[form])
        with connection.socket:
            connection.send(request.head.replace("{user}", user or "").encode("latin-1") + request.body)
            while not connection.receive():
                pass
            found = logits_in(server.name, form, connection.answer, connection.head)
    if found.size != expected.size:
        raise RuntimeError(f"{server.title}, {form}: {expected.size} logits were expected, but {found.size} came")
    return float(np.abs(found - expected.ravel()).max() / np.abs(expected).max())
