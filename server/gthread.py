"""gunicorn's worker of threads, with three things changed that a server of small networks needs; a fourth is in ``patience.py``.

A request that comes when too many wait is answered 503 by a thread that is kept for it, not after all the others. A thread that has
answered waits a moment for the same connection's next request, while another is free: handing it over to the main thread and back
costs as much as a prediction. And a connection that is closed while its client still sends is waited for by its thread, not by the main one.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gunicorn.util import close, close_graceful
from gunicorn.workers.gthread import TConn

from isoform.server.admission import Admission, Ticket
from isoform.server.patience import PatientWorker

__all__ = ["Connection", "Worker"]

LINGER_SECONDS = 0.005
CLOSE_SECONDS = 0.5


class Connection(TConn):  # type: ignore[misc]
    """A client's."""

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002 - its thread has waited for its client
        """Close it."""
        close(self.sock)


class Worker(PatientWorker):
    """One process. Its application has ``admission``."""

    connection_class = Connection

    def init_process(self) -> None:
        """In the process, before it serves."""
        self._aside = ThreadPoolExecutor(1)
        self._busy, self._notified = 0, 0.0
        self._counting = threading.Lock()
        super().init_process()

    @property
    def _admission(self) -> Admission:
        admission: Admission = self.app.admission
        return admission

    def notify(self) -> None:
        """Tell the arbiter that the process lives: once a second is enough."""
        now = time.monotonic()
        if now - self._notified >= 1:
            self._notified = now
            super().notify()

    def enqueue_req(self, conn: Any) -> None:
        """A connection has a request."""
        ticket = self._admission.arrive()
        pool = self._aside if ticket.refused else self.tpool
        done = pool.submit(self._handled, conn, ticket)
        done.add_done_callback(lambda future: self.method_queue.defer(self.finish_request, conn, future))

    def _handled(self, conn: Any, ticket: Ticket) -> Any:
        """In a thread: this request, and those that follow it at once. Returns what ``handle`` does."""
        with self._counting:
            self._busy += 1
        try:
            self._admission.begin(ticket)
            kept = self.handle(conn)
            while kept is True and not ticket.refused and self._next(conn):
                self._admission.begin(Ticket(time.perf_counter()))
                kept = self.handle(conn)
            if kept is False:
                close_graceful(conn.sock, timeout=CLOSE_SECONDS)
            return kept
        finally:
            with self._counting:
                self._busy -= 1

    def _next(self, conn: Any) -> bool:
        """Whether the connection's next request is here, or comes in a moment. What there is of it is kept for whoever reads it."""
        unread = conn.parser.unreader
        if not self.alive or self._busy >= self.cfg.threads or unread.buf.getvalue():
            return False
        waiting = select.poll()
        waiting.register(conn.sock, select.POLLIN)
        if not waiting.poll(1e3 * LINGER_SECONDS):
            return False
        try:
            part = socket.socket.recv(conn.sock, 1 << 16, socket.MSG_DONTWAIT)
        except OSError:
            return False
        unread.unread(part)
        return self._is_there(part, fresh=len(part))
