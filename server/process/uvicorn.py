"""One process's server: uvicorn, told what it may do."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from isoform.server.http.asgi import Asgi
from isoform.server.opening import Tls
from isoform.server.process.connections import Connections
from isoform.server.process.watched import watched

__all__ = ["GRACE_SECONDS", "serve"]

GRACE_SECONDS = 30
"""How long requests that are under way may take when the server stops."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, told: Callable[[], float]) -> None:
        super().__init__(config)
        self._told = told

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        wait = self._told() if sig == signal.SIGTERM else 0.0
        if wait > 0:
            later = threading.Timer(wait, super().handle_exit, (sig, frame))
            later.daemon = True
            later.start()
        else:
            super().handle_exit(sig, frame)


def serve(
    application: Asgi, listener: socket.socket, *, keep_alive_seconds: int, connections: int, tls: Tls | None,
    told: Callable[[], float] = lambda: 0.0,
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C, in the main thread. Raises ``SystemExit`` at the end.

    Args:
        application: What answers.
        listener: A socket that listens.
        keep_alive_seconds: How long a connection without a request stays open.
        connections: How many there may be.
        tls: Certificate and key; None for plain HTTP.
        told: Called at SIGTERM; returns the seconds for which requests are answered before it stops.
    """
    config = uvicorn.Config(
        application, interface="asgi3", http="httptools", ws="none", lifespan="on", log_config=None, log_level="critical", access_log=False,
        proxy_headers=False, server_header=False, timeout_keep_alive=keep_alive_seconds, timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=tls and tls.certificate, ssl_keyfile=tls and tls.key,
    )  # fmt: skip
    config.load()
    config.http_protocol_class = watched(
        config.http_protocol_class, Connections(connections, keep_alive_seconds=keep_alive_seconds)
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises what it was sent once more when it is done
        signal.signal(number, _leave)
    _Server(config, told).run([listener])


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
