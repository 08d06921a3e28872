"""Bytes to a server and back: on a socket of its own, or to the real application under uvicorn in this process."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn
from flask import Flask
from uvicorn.server import ServerState

from isoform.server.clients.connections import Connections
from isoform.server.http.asgi import Asgi
from isoform.server.process.watched import watched

try:
    import uvloop
except ImportError:  # Windows
    LOOPS = [asyncio.new_event_loop]
else:
    LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]

__all__ = ["LOOPS", "Here", "answer_of", "here", "statuses", "talk"]


def statuses(answers: bytes) -> list[int]:
    """Of every response in there."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) [A-Z]", answers)]


def talk(address: Any, *parts: bytes, ends: bool = False, seconds: float = 20, tls: Any = None) -> tuple[bytes, bool]:
    """What comes back for some bytes until the server closes the connection, or has sent nothing for a moment, and whether it closed.

    Args:
        address: Host and port, or the path of a Unix socket.
        *parts: What to send, one after the other.
        ends: Whether the client then sends nothing more, and says so (a half-closed connection).
        seconds: For how long to wait for an end that is expected; 0 to wait for one answer, and a moment of silence.
        tls: An SSL context.
    """
    with contextlib.ExitStack() as stack:
        family = (
            socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        )
        connection = stack.enter_context(socket.socket(family))
        connection.settimeout(20)
        connection.connect(address)
        if tls is not None:
            connection = stack.enter_context(tls.wrap_socket(connection, server_hostname="localhost"))
        for part in parts:
            connection.sendall(part)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        if not seconds:
            found += answer_of(connection)
        connection.settimeout(seconds or 0.1)
        try:
            while part := connection.recv(1 << 20):
                found += part
        except TimeoutError:
            return found, False
        return found, True


def answer_of(connection: socket.socket) -> bytes:
    """One whole answer, and no more."""
    found = b""
    while b"\r\n\r\n" not in found or len(found) < found.index(b"\r\n\r\n") + 4 + _length(found):
        part = connection.recv(65536)
        assert part, found
        found += part
    return found


def _length(answer: bytes) -> int:
    said = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", answer)
    return int(said[1]) if said else 0


class Here:
    """The real application under uvicorn in this process, whose loop runs in a thread of its own.

    Args:
        app: What ``create_app`` made.
        loop: Where it runs.
        most: Connections.
        keep_alive_seconds: As ``--keep-alive``.
        by_loop: Whether the loop makes predictions.
    """

    def __init__(
        self, app: Flask, loop: asyncio.AbstractEventLoop, *, most: int, keep_alive_seconds: int, by_loop: bool
    ) -> None:
        self.asgi = Asgi(lambda: contextlib.nullcontext(app), threads=2, by_loop=by_loop)
        self.connections = Connections(most, keep_alive_seconds=keep_alive_seconds)
        self._config = uvicorn.Config(
            self.asgi, interface="asgi3", http="httptools", ws="none", log_config=None, log_level="critical",
            access_log=False, server_header=False, timeout_keep_alive=keep_alive_seconds,
        )  # fmt: skip
        self._config.load()
        self._protocol = watched(self._config.http_protocol_class, self.connections)
        self._loop = loop
        self.address: tuple[str, int] = self.run(self._listen())

    async def _listen(self) -> tuple[str, int]:
        state = ServerState()
        self._server = await self._loop.create_server(
            lambda: self._protocol(config=self._config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        host, port = self._server.sockets[0].getsockname()
        return host, port

    def run(self, task: Coroutine[Any, Any, Any]) -> Any:
        """Let its loop do something."""
        return asyncio.run_coroutine_threadsafe(task, self._loop).result(60)

    async def close(self) -> None:
        """Stop listening, and close everything."""
        self._server.close()
        for connection in list(self.connections.open):
            connection.drop()
        self.asgi.close()

    def counted(self) -> dict[str, int]:
        """All that is counted: zeros, once nobody is connected."""
        found = self.connections
        return {
            "open": len(found.open), "idle": len(found.idle), "waiting": len(found.waiting), "bytes": found.bytes,
            "transferred": self.asgi._transfers.bytes if hasattr(self.asgi, "_transfers") else 0,
        }  # fmt: skip


@contextlib.contextmanager
def here(
    app: Flask, *, most: int = 100, keep_alive_seconds: int = 60, by_loop: bool = True,
    loops: Callable[[], asyncio.AbstractEventLoop] = LOOPS[-1],
) -> Iterator[Here]:  # fmt: skip
    """The application in this process, for as long as the ``with`` block lasts."""
    with contextlib.ExitStack() as stack:
        loop = loops()
        runs = threading.Thread(target=loop.run_forever, name="wire")
        runs.start()
        stack.callback(loop.close)
        stack.callback(runs.join)
        stack.callback(loop.call_soon_threadsafe, loop.stop)
        found = Here(app, loop, most=most, keep_alive_seconds=keep_alive_seconds, by_loop=by_loop)
        stack.callback(lambda: found.run(found.close()))
        yield found
