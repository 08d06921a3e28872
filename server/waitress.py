"""The application behind waitress: one process, where gunicorn cannot run (Windows), or is not wanted."""

from __future__ import annotations

import signal
from collections.abc import Callable

from waitress.server import create_server

from isoform.runtime.errors import UsageError
from isoform.server.opening import Opening

__all__ = ["serve"]


def serve(opening: Opening, *, host: str, port: int, ready: Callable[[str, int], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        opening: What to serve.
        host: Address to listen on.
        port: Port; 0 for a free one.
        ready: Called with host and port as soon as connections are accepted.

    Raises:
        UsageError: If it cannot listen there.
    """
    with opening.app() as app:
        try:
            # The application refuses long bodies itself, with JSON; waitress is only kept from reading without an end.
            server = create_server(
                app, host=host, port=port, threads=opening.request_threads, ident="isoform",
                max_request_body_size=4 * opening.settings.max_body_bytes,
            )  # fmt: skip
        except (OSError, ValueError) as problem:
            raise UsageError(f"cannot listen on {host}:{port}: {problem}; choose another --host or --port") from None
        signal.signal(signal.SIGTERM, _stop)
        ready(*(server.effective_listen[0] if hasattr(server, "effective_listen") else (host, server.effective_port)))
        try:
            server.run()
        finally:
            server.task_dispatcher.shutdown()
            server.close()


def _stop(*_: object) -> None:
    raise SystemExit(0)
