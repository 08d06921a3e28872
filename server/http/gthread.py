"""Which request is answered by whom, in one process: gunicorn's worker of threads, for small networks.

A short prediction is made by the loop that has read its request, not by a thread: two threads that hand each other a request, and fight for
Python's lock, take as long as the network does. As soon as two in a row take longer than ``SLOW_SECONDS``, because the network is large, predictions
get threads again, for ``SHY_SECONDS``; and always where the store is on another machine, or requests are batched. Everything else has threads.
A request that comes when too many wait is answered 503 by a thread that is kept for it, not after all the others. So is the question whether
the server lives, and whether it is ready, each by threads of its own: busy threads, or a store that hangs, are no reason to take it for dead.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from isoform.server.admission import Admission, Ticket
from isoform.server.http.patience import PatientWorker
from isoform.server.http.short import Parser, ShortRequest, short_request

__all__ = ["Worker"]

SLOW_SECONDS = 0.01
READY_THREADS = 4
"""Questions whether the server is ready wait for the store, all of them for one look at it."""
SLOW_ONES = 2
"""So many one after the other; one alone may be the machine's."""
SHY_SECONDS = 1.0
TURN_SECONDS = 0.02
"""So long who comes anew waits for those who send: hundreds of clients with long bodies must not keep out who asks whether the server lives."""
AT_ONCE_SECONDS = 0.0002
"""Where waiting for events took no longer, they had come before."""
_HEALTH = re.compile(rb"(?:GET|HEAD) /v2/health/(live|ready)(?:\?\S*)? HTTP/1\.[01]\r\n")
_BODY = re.compile(rb"\r\n(?:content-length|transfer-encoding)", re.IGNORECASE)
"""Where a body is announced, whoever answers may have to wait for it."""


class Worker(PatientWorker):
    """One process. Its application has ``admission``, says whether predictions may be made by the loop (``by_loop``), and has a ``pulse``."""

    def init_process(self) -> None:
        """In the process, before it serves."""
        self._aside, self._for_live, self._for_ready = (
            ThreadPoolExecutor(1),
            ThreadPoolExecutor(1),
            ThreadPoolExecutor(READY_THREADS),
        )
        self._notified = self._shy_until = self._parent_asked = 0.0
        self._parent_lives = True
        self._woken = self._came = time.perf_counter()
        self._behind = self._slow = 0
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
            self.app.pulse()

    def is_parent_alive(self) -> bool:
        """Whether the arbiter lives; asked as often as ``notify`` says something."""
        if self._parent_asked != self._notified:
            self._parent_asked = self._notified
            self._parent_lives = super().is_parent_alive()
        return self._parent_lives

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for what comes, and see to it."""
        began = time.perf_counter()
        events = self.poller.select(timeout)
        before, self._woken = self._woken, time.perf_counter()
        # What did not have to be waited for has come while the events before were seen to.
        self._came = before if self._woken - began < AT_ONCE_SECONDS else self._woken
        self._behind, began = 0, self._woken
        for key, _ in events:
            key.data(key.fileobj)
            if time.perf_counter() - began > TURN_SECONDS:
                self.accept_waiting()
                began = time.perf_counter()

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        """The next request of a connection; where the loop answers it, the connection stays as it is."""
        part = client.take(1 << 16)
        if part is None:
            return
        request = self._own(conn, part)
        if request is None:
            self.poller.unregister(client)
            self.keepalived_conns.remove(conn)
            self._collect(conn, part)
            return
        kept = self._answered(conn, request)
        self.keepalived_conns.remove(conn)
        if kept is True and not client.unsent:
            client.setblocking(False)
            conn.set_timeout()
            self.keepalived_conns.append(conn)
        else:
            self.poller.unregister(client)
            self._finish(conn, kept)

    def begin(self, conn: Any, collected: bytes) -> None:
        """A request is there: by the loop, or by a thread."""
        request = self._own(conn, collected)
        health = _HEALTH.match(collected) if request is None and not _BODY.search(collected) else None
        if health is not None:
            conn.parser.unreader.unread(collected)
            pool = self._for_live if health[1] == b"live" else self._for_ready
            self._in_thread(conn, pool, self.handle, conn)
        elif request is None:
            super().begin(conn, collected)
        else:
            self._finish(conn, self._answered(conn, request))

    def make_parser(self, conn: Any) -> Parser:
        """Of a new connection."""
        return Parser(self.cfg, conn.sock, conn.client)

    def _own(self, conn: Any, collected: bytes) -> ShortRequest | None:
        """The request, if the loop answers it."""
        if not self.app.by_loop or time.perf_counter() < self._shy_until:
            return None
        return short_request(collected, self.cfg, conn.client)

    def enqueue_req(self, conn: Any) -> None:
        """A request gets a thread, as soon as there is one."""
        ticket = self._admission.arrive()
        self._in_thread(conn, self._aside if ticket.refused else self.tpool, self._handled, conn, ticket)

    def _in_thread(self, conn: Any, pool: ThreadPoolExecutor, what: Any, *arguments: Any) -> None:
        done = pool.submit(what, *arguments)
        done.add_done_callback(lambda future: self.method_queue.defer(self.finish_request, conn, future))

    def _handled(self, conn: Any, ticket: Ticket) -> Any:
        """In a thread. Returns what ``handle`` does."""
        self._admission.begin(ticket)
        return self.handle(conn)

    def _answered(self, conn: Any, request: ShortRequest) -> Any:
        """In the loop, which waits for no client: all of the request is there, and what the client does not take at once a thread sends."""
        began = time.perf_counter()
        self._admission.begin(Ticket(self._came, refused=self._behind >= self._admission.limit))
        self._behind += 1
        conn.parser.given = request
        conn.sock.hurry(True)
        try:
            kept = self.handle(conn)
        finally:
            conn.sock.hurry(False)
        ended = time.perf_counter()
        self._slow = self._slow + 1 if ended - began > SLOW_SECONDS else 0
        if self._slow >= SLOW_ONES:
            self._shy_until, self._slow = ended + SHY_SECONDS, 0
        return kept

    def _finish(self, conn: Any, kept: Any) -> None:
        """What the loop answered."""
        if conn.sock.unsent:
            self._in_thread(conn, self.tpool, _send_rest, conn, kept)
        else:
            done = Future[Any]()
            done.set_result(kept)
            self.finish_request(conn, done)


def _send_rest(conn: Any, kept: Any) -> Any:
    conn.sock.send_rest()
    return kept
