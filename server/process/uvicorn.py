"""The server of one process: uvicorn, configured, with watched connections and balanced accepting."""

from __future__ import annotations

import asyncio
import functools
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import httptools  # noqa: F401  (fails here, once, if it is missing, and not later in every process)
import uvicorn

from isoform.server.clients.connections import Connections
from isoform.server.http.asgi import Asgi
from isoform.server.opening import Tls
from isoform.server.process.accepting import Accepting, Counts
from isoform.server.process.watched import watched

__all__ = ["GRACE_SECONDS", "serve"]

GRACE_SECONDS = 30
"""How long requests in flight may take when the server stops."""
TLS_SECONDS = 15.0
"""Deadline for the TLS handshake."""


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, listener: socket.socket, connections: Connections, counts: Counts | None, told: Callable[[], float]
    ) -> None:  # fmt: skip
        super().__init__(config)
        self._listener, self._connections, self._counts, self._told = listener, connections, counts, told
        self._accepting: Accepting | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._counts is None:
            await super().startup(sockets=[self._listener])
            return
        await super().startup(sockets=sockets or [])  # an empty list, so that uvicorn opens no socket itself
        loop, config = asyncio.get_running_loop(), self.config
        patience = TLS_SECONDS if config.is_ssl else None

        protocol: Callable[..., asyncio.Protocol] = config.http_protocol_class
        made = functools.partial(protocol, config=config, server_state=self.server_state, app_state=self.lifespan.state)

        async def connect(accepted: socket.socket) -> object:
            return await loop.connect_accepted_socket(made, accepted, ssl=config.ssl, ssl_handshake_timeout=patience)

        self._accepting = Accepting(
            self._listener, connect, connected=lambda: len(self._connections.open), counts=self._counts
        )
        self._connections.changed = self._accepting.tell

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._accepting is not None:
            self._accepting.close()
        await super().shutdown(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        wait = self._told() if sig == signal.SIGTERM else 0.0
        if wait > 0:  # drain: a timer, because a signal handler must not block the loop
            later = threading.Timer(wait, super().handle_exit, (sig, frame))
            later.daemon = True
            later.start()
        else:
            super().handle_exit(sig, frame)


def serve(
    application: Asgi, listener: socket.socket, *, keep_alive_seconds: int, connections: int, tls: Tls | None,
    counts: Counts | None = None, told: Callable[[], float] = lambda: 0.0,
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C, in the main thread. Raises ``SystemExit`` at the end.

    Args:
        application: The ASGI application.
        listener: The listening socket; closed at the end.
        keep_alive_seconds: How long an idle connection stays open.
        connections: Most open connections.
        tls: Certificate and key; None for plain HTTP.
        counts: Connection counts of all processes; None for a single process.
        told: Called at SIGTERM; returns how many seconds to keep serving before stopping.
    """
    config = uvicorn.Config(
        application, interface="asgi3", http="httptools", ws="none", lifespan="on", log_config=None, log_level="critical", access_log=False,
        proxy_headers=False, server_header=False, timeout_keep_alive=keep_alive_seconds, timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=tls.certificate if tls else None, ssl_keyfile=tls.key if tls else None,
    )  # fmt: skip
    config.load()
    watching = Connections(connections, keep_alive_seconds=keep_alive_seconds)
    config.http_protocol_class = watched(config.http_protocol_class, watching)
    # uvicorn raises the signal again after shutdown, and this exits with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    _Server(config, listener, watching, counts, told).run()


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
