"""gunicorn's worker of threads, with three things changed that a server of small networks needs; a fourth is in ``patience.py``.

A short prediction is made by the loop that has read its request, not by a thread: two threads that hand each other a request, and fight for
Python's lock, take as long as the network does. As soon as one takes longer than ``SLOW_SECONDS``, because the network is large or the
store is far away, predictions get threads again, for ``SHY_SECONDS``. Everything else always does.
A request that comes when too many wait is answered 503 by a thread that is kept for it, not after all the others.
And a connection that is closed while its client still sends is waited for by a thread, not by the loop.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gunicorn.util import close, close_graceful
from gunicorn.workers.gthread import TConn

from isoform.server.admission import Admission, Ticket
from isoform.server.patience import PatientWorker

__all__ = ["Connection", "Worker"]

SHORT_BYTES = 256 << 10
"""Longer requests bring more samples than one wants to wait for."""
SLOW_SECONDS = 0.01
SHY_SECONDS = 1.0
CLOSE_SECONDS = 0.5
_PREDICTION = re.compile(
    rb"POST /v2/models/[\w.-]+(?:/versions/[\w.-]+)?/infer HTTP/1\.1\r\n(?:(?!(?:expect|transfer-encoding|content-length)[ \t]*:)[^\r\n]+\r\n)*"
    rb"content-length:[ \t]*(\d{1,6})\r\n(?:(?!(?:expect|transfer-encoding|content-length)[ \t]*:)[^\r\n]+\r\n)*\r\n",
    re.IGNORECASE,
)


class Connection(TConn):  # type: ignore[misc]
    """A client's."""

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002 - a thread has waited for its client
        """Close it."""
        close(self.sock)


class Worker(PatientWorker):
    """One process. Its application has ``admission``, and says whether predictions may be made by the loop (``by_loop``)."""

    connection_class = Connection

    def init_process(self) -> None:
        """In the process, before it serves."""
        self._aside = ThreadPoolExecutor(1)
        self._notified = self._shy_until = 0.0
        self._woken = time.perf_counter()
        self._behind = 0
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

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for what comes, and see to it; all of it has come now."""
        events = self.poller.select(timeout)
        self._woken, self._behind = time.perf_counter(), 0
        for key, _ in events:
            key.data(key.fileobj)

    def begin(self, conn: Any, collected: bytes) -> None:
        """A request is there: by the loop, or by a thread."""
        if self.app.by_loop and time.perf_counter() >= self._shy_until and _is_short_prediction(collected):
            self._answer(conn)
        else:
            self.enqueue_req(conn)

    def enqueue_req(self, conn: Any) -> None:
        """A request gets a thread, as soon as there is one."""
        ticket = self._admission.arrive()
        done = (self._aside if ticket.refused else self.tpool).submit(self._handled, conn, ticket)
        done.add_done_callback(lambda future: self.method_queue.defer(self.finish_request, conn, future))

    def _handled(self, conn: Any, ticket: Ticket) -> Any:
        """In a thread. Returns what ``handle`` does."""
        self._admission.begin(ticket)
        kept = self.handle(conn)
        if kept is False:
            close_graceful(conn.sock, timeout=CLOSE_SECONDS)
        return kept

    def _answer(self, conn: Any) -> None:
        """In the loop, which waits for nobody: all of the request is there, and an answer is short."""
        began = time.perf_counter()
        self._admission.begin(Ticket(self._woken, refused=self._behind >= self._admission.limit))
        self._behind += 1
        conn.sock.never_wait(True)
        kept = self.handle(conn)
        conn.sock.never_wait(False)
        ended = time.perf_counter()
        if ended - began > SLOW_SECONDS:
            self._shy_until = ended + SHY_SECONDS
        if kept is False:
            done = self._aside.submit(close_graceful, conn.sock, timeout=CLOSE_SECONDS)
            done.add_done_callback(lambda future: self.method_queue.defer(self.finish_request, conn, future))
        else:
            done = Future()
            done.set_result(kept)
            self.finish_request(conn, done)


def _is_short_prediction(collected: bytes) -> bool:
    """Whether that is one whole request for a prediction, short, and nothing else."""
    if not collected.startswith(b"POST /v2/models/") or len(collected) > SHORT_BYTES:
        return False
    head = _PREDICTION.match(collected)
    return head is not None and len(collected) == head.end() + int(head[1])
