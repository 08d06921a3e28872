"""A crowd of clients that begin a request and do not end it: ``python half_clients.py``, which is told what to do by lines of JSON.

One epoll loop holds all connections, so that the crowd takes little of the processors that the server needs. A connection that the server
closes is opened again at once. Told is one line,

    {"port", "connections", "seconds", "heads": [base64], "rate"}

where each connection sends one of the heads, and then ``rate`` zeros a second. Answered with

    {"statuses": {status: times}, "closed", "opened", "sent_bytes", "cpu_seconds"}

``closed`` counts connections that the server ended, with or without an answer. Linux.
"""

from __future__ import annotations

import base64
import collections
import errno
import itertools
import re
import select
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
LOOK_SECONDS = 0.2
WORKING = (errno.EINPROGRESS, errno.EAGAIN)


class _Crowd:
    def __init__(self, port: int, heads: Sequence[bytes], rate: int) -> None:
        self._address, self._heads, self._piece = ("127.0.0.1", port), itertools.cycle(heads), bytes(rate)
        self._epoll, self._open = select.epoll(), dict[int, socket.socket]()
        self._unsent = dict[int, bytes]()
        self._due = collections.deque[tuple[float, socket.socket]]()
        self.statuses, self.closed, self.opened, self.sent = collections.Counter[str](), 0, 0, 0

    def hold(self, connections: int, seconds: float) -> None:
        """Keep so many connections for so long."""
        began = time.monotonic()
        for number in range(connections):
            self._begin(began + number / connections)  # not all of them send their pieces at the same moment
        while (now := time.monotonic()) < began + seconds:
            wait = min(self._due[0][0] - now, LOOK_SECONDS) if self._due else LOOK_SECONDS
            for number, events in self._epoll.poll(max(0.0, wait)):
                if events & select.EPOLLOUT:
                    self._send(number)
                if events & ~select.EPOLLOUT:
                    self._receive(number)
            self._send_pieces(time.monotonic())
        for connection in self._open.values():
            connection.close()

    def _begin(self, due: float) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        if (problem := connection.connect_ex(self._address)) not in (0, *WORKING):
            raise OSError(problem, "cannot connect to the server")
        self._open[connection.fileno()] = connection
        self._unsent[connection.fileno()] = next(self._heads)
        self._epoll.register(connection, select.EPOLLIN | select.EPOLLOUT)
        self.opened += 1
        if self._piece:
            self._due.append((due, connection))

    def _send(self, number: int) -> None:
        """Send the head, once there is a connection."""
        try:
            left = self._unsent[number][self._open[number].send(self._unsent[number]) :]
        except BlockingIOError:
            return
        except OSError:
            left = b""  # the server has closed it, which is noticed by reading
        self._unsent[number] = left
        if not left:
            self._epoll.modify(number, select.EPOLLIN)

    def _receive(self, number: int) -> None:
        connection = self._open.get(number)
        if connection is None:
            return
        try:
            data = connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.statuses.update(status.decode() for status in STATUS.findall(data))
        if not data:
            self.closed += 1
            self._epoll.unregister(number)
            del self._open[number], self._unsent[number]
            connection.close()
            self._begin(time.monotonic() + 1.0)

    def _send_pieces(self, now: float) -> None:
        """Send what is due, one piece a second on each connection; what the server does not take is left out."""
        while self._due and self._due[0][0] <= now:
            due, connection = self._due.popleft()
            if connection.fileno() < 0:
                continue
            try:
                if not self._unsent[connection.fileno()]:
                    self.sent += connection.send(self._piece)
            except OSError:
                pass
            self._due.append((due + 1.0, connection))


def _run(told: dict[str, Any]) -> dict[str, object]:
    before = time.process_time()
    crowd = _Crowd(told["port"], [base64.b64decode(head) for head in told["heads"]], told["rate"])
    crowd.hold(told["connections"], told["seconds"])
    return {
        "statuses": dict(sorted(crowd.statuses.items())), "closed": crowd.closed, "opened": crowd.opened, "sent_bytes": crowd.sent,
        "cpu_seconds": time.process_time() - before,
    }  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from bench.processes import obey

    obey(_run)
