"""Clients that want their answers, whatever happens to others: ``python honest_clients.py``, which is told what to do by lines of JSON.

As ``http_client.py``, but connections stay open from one line to the next, and a request that fails is counted and its connection opened
again. Told is one line,

    {"port", "connections", "seconds", "request": base64, "patience"}

and answered with ``{"latencies_us": [...], "failed", "problem"}``: a request fails if its answer is no 200, if the connection breaks, or
if nothing has come after ``patience`` seconds. ``problem`` is what went wrong first. Requests that are in flight at the end are awaited,
and count.
"""

from __future__ import annotations

import base64
import select
import sys
import time
from pathlib import Path
from typing import Any

LOOK_MS = 100


class _Clients:
    """Clients of one port."""

    def __init__(self, port: int, connections: int) -> None:
        from bench.serving.http_client import HttpConnection

        self._connect = lambda: HttpConnection(port)
        self._poll, self._open, self._sent = select.poll(), dict[int, HttpConnection](), dict[int, float]()
        for _ in range(connections):
            self._begin()

    def run(self, request: bytes, seconds: float, patience: float) -> dict[str, object]:
        """Send and receive until the time is over."""
        clock = time.perf_counter
        until, latencies, problems = clock() + seconds, list[float](), list[str]()
        while True:
            if clock() < until:
                for number in [number for number in self._open if number not in self._sent]:
                    self._sent[number] = clock()
                    self._open[number].send(request)
            if not self._sent:
                break
            for number, _ in self._poll.poll(LOOK_MS):
                try:
                    if self._open[number].receive() and number in self._sent:
                        latencies.append(clock() - self._sent.pop(number))
                except OSError as problem:
                    problems += [str(problem)] * self._drop(number)
            for number in [number for number, sent in self._sent.items() if sent < clock() - patience]:
                problems += [f"no answer came within {patience:g} s"] * self._drop(number)
        microseconds = [round(1e6 * value) for value in latencies]
        return {"latencies_us": microseconds, "failed": len(problems), "problem": (problems or [""])[0]}

    def _begin(self) -> None:
        connection = self._connect()
        self._open[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, select.POLLIN)

    def _drop(self, number: int) -> bool:
        """Connect anew. Returns whether a request was in flight: an idle connection may be closed by the server."""
        self._poll.unregister(number)
        self._open.pop(number).socket.close()
        in_flight = self._sent.pop(number, None) is not None
        self._begin()
        return in_flight


def main() -> None:
    """Obey line by line."""
    from bench.processes import obey

    clients = dict[int, _Clients]()

    def run(told: dict[str, Any]) -> dict[str, object]:
        if told["port"] not in clients:
            clients[told["port"]] = _Clients(told["port"], told["connections"])
        return clients[told["port"]].run(base64.b64decode(told["request"]), told["seconds"], told["patience"])

    obey(run)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
