"""The application behind waitress: one process, where gunicorn cannot run (Windows), or is not wanted."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable, Sized

from waitress.server import create_server

from isoform.runtime.errors import UsageError
from isoform.server.admission import Admission
from isoform.server.draining import Draining
from isoform.server.opening import Opening
from isoform.server.problems import BusyError

__all__ = ["serve"]


class _Depth(Admission):
    """Waitress tells how many requests wait, but not of each when it came."""

    queue: Sized = ()

    @property
    def waiting(self) -> int:
        return len(self.queue)

    def take(self) -> float:
        if self.waiting > self.limit:
            raise BusyError(f"more than {self.limit} requests wait; try again later")
        return super().take()


def serve(opening: Opening, *, host: str, port: int, drain_seconds: float, ready: Callable[[str, int], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        opening: What to serve.
        host: Address to listen on.
        port: Port; 0 for a free one.
        drain_seconds: How long after SIGTERM it says that it is not ready, and answers, before it stops.
        ready: Called with host and port as soon as connections are accepted.

    Raises:
        UsageError: If it cannot listen there.
    """
    draining = Draining()
    admission = _Depth(opening.settings.queue_requests)
    with opening.app(admission=admission, draining=draining) as app:
        try:
            # The application refuses long bodies itself, with JSON; waitress is only kept from reading without an end.
            server = create_server(
                app, host=host, port=port, threads=opening.request_threads, ident="isoform",
                max_request_body_size=4 * opening.settings.max_body_bytes, channel_timeout=opening.keep_alive_seconds,
                cleanup_interval=min(30, opening.keep_alive_seconds),
                # X-Forwarded-For is read by access/address.py, which knows whom to believe; nothing else believes such a header.
                clear_untrusted_proxy_headers=False,
            )  # fmt: skip
        except (OSError, ValueError) as problem:
            raise UsageError(f"cannot listen on {host}:{port}: {problem}; choose another --host or --port") from None
        admission.queue = server.task_dispatcher.queue

        def stop(*_: object) -> None:
            if draining.begun or drain_seconds <= 0:
                raise SystemExit(0)
            draining.begin()
            later = threading.Timer(drain_seconds, _thread.interrupt_main, (signal.SIGTERM,))
            later.daemon = True
            later.start()

        signal.signal(signal.SIGTERM, stop)
        ready(*(server.effective_listen[0] if hasattr(server, "effective_listen") else (host, server.effective_port)))
        try:
            server.run()
        finally:
            server.task_dispatcher.shutdown()
            server.close()
