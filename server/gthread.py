"""gunicorn's worker of threads, with four things changed that a server of small networks needs.

A request that comes when too many wait is answered 503 by a thread that is kept for it, not after all the others. A connection that
says nothing, or stops in the middle of a request, does not keep a thread: gunicorn gives one to every new connection for up to five
seconds, and to half a request for ever. A thread that has answered waits a moment for the same connection's next request, while
another is free: handing it over to the main thread and back costs as much as a prediction. And a connection that is closed
while its client still sends is waited for by its thread, not by the main one.
"""

from __future__ import annotations

import select
import selectors
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.util import close, close_graceful
from gunicorn.workers.gthread import TConn, ThreadWorker

from isoform.server.admission import Admission, Ticket

__all__ = ["QuietLogger", "Worker"]

LINGER_SECONDS = 0.005
STALL_SECONDS = 10.0
"""So long a client may pause in the middle of a request."""
CLOSE_SECONDS = 0.5


class _Impatient(socket.socket):
    """A socket whose blocking operations end after ``STALL_SECONDS``."""

    def setblocking(self, flag: bool) -> None:
        self.settimeout(STALL_SECONDS if flag else 0.0)


class _Connection(TConn):  # type: ignore[misc]
    def close(self, graceful: bool = False) -> None:  # noqa: ARG002 - a connection's thread has waited for its client
        close(self.sock)


class Worker(ThreadWorker):  # type: ignore[misc]
    """One process. Its application has ``admission``."""

    def init_process(self) -> None:
        """In the process, before it serves."""
        self._aside = ThreadPoolExecutor(1)
        self._busy = 0
        self._counting = threading.Lock()
        super().init_process()

    @property
    def _admission(self) -> Admission:
        admission: Admission = self.app.admission
        return admission

    def accept(self, listener: Any) -> None:
        """A new connection: watched until it says something."""
        try:
            plain, address = listener.accept()
        except OSError:
            return  # another process has it, or it is gone
        self.nr_conns += 1
        client = _Impatient(fileno=plain.detach())
        connection = _Connection(self.cfg, client, address, listener.getsockname())
        connection.timeout = time.monotonic() + self.cfg.keepalive
        self.pending_conns.append(connection)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, connection))

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
        """Whether the connection's next request is here, or comes in a moment."""
        if not self.alive or self._busy >= self.cfg.threads or conn.parser.unreader.buf.getvalue():
            return False
        waiting = select.poll()
        waiting.register(conn.sock, select.POLLIN)
        return bool(waiting.poll(1e3 * LINGER_SECONDS))


class QuietLogger(Logger):  # type: ignore[misc]
    """gunicorn's, without a traceback for every client that stalled."""

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log what was raised."""
        if isinstance(sys.exc_info()[1], TimeoutError):
            self.debug("a client stalled")
        else:
            super().exception(msg, *args, **kwargs)
