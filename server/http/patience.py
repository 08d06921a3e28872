"""A gunicorn worker that gives a request to a thread when it is there, not when it begins: who sends slowly holds no thread.

gunicorn's own threads read heads and bodies themselves and wait as long as it takes, so that as many clients as there are threads, each
with half a request, stop a process. Here its loop collects heads, and bodies that are short (``collecting.py``). Who does not get done
in ``HEAD_SECONDS``, and is slower than ``RATE`` bytes a second, is hung up on; and who has sent more than a head while all that are
collected, and those that wait for a thread, take over ``TOTAL_BYTES``. What is longer a thread reads (``client.py``).

A connection that ends is closed by the loop too, when the client has closed it or ``CLOSE_SECONDS`` are over: closing it at once would
take the answer from who has not read it, and waiting for that would take as long as the client likes.
"""

from __future__ import annotations

import errno
import functools
import selectors
import socket
import time
from concurrent.futures import Future
from typing import Any

from gunicorn import http
from gunicorn.workers.gthread import TConn, ThreadWorker

from isoform.server.http.client import RATE, ClientSocket
from isoform.server.http.collecting import HEAD_BYTES, Collected

__all__ = ["PatientWorker"]

HEAD_SECONDS = 15.0
"""A head, and a short body, have to be there by then, or so long after a part of it that was fast enough."""
TOTAL_BYTES = 64 << 20
LINGER_SECONDS = 2.0
"""So long a process that stops waits for those who have not asked for anything yet."""
CLOSE_SECONDS = 0.5
CLOSE_BYTES = 1 << 16
"""More than that is not read from who has its last answer."""
JUDGE_SECONDS = 0.25
ACCEPTED_AT_ONCE = 64


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """``gthread``, with collecting."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._collected = dict[TConn, Collected]()
        self._handed = dict[TConn, int]()
        """Bytes of requests that were handed over, until they are answered: they count as long as they wait for a thread."""
        self._closing = dict[TConn, int]()
        """Connections that end, and how many bytes came since."""
        self._bytes, self._judged = 0, 0.0

    def accept(self, listener: socket.socket) -> bool:
        """Take a connection, and wait for what it says. Returns whether there was one."""
        try:
            accepted, address = listener.accept()
        except OSError as problem:
            if problem.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(0.05)  # until one of those that there are ends
            return False  # else another process was faster, or the client is gone
        self.nr_conns += 1
        if (
            self.nr_conns >= self.worker_connections and self.keepalived_conns
        ):  # else nobody is accepted until one is idle for too long
            oldest = self.keepalived_conns.popleft()
            self.poller.unregister(oldest.sock)
            self._hang_up(oldest)
        self._collect(TConn(self.cfg, ClientSocket(accepted), address, listener.getsockname()))
        return True

    def accept_waiting(self) -> None:
        """Take several of those that have come while others were seen to."""
        for listener in self.sockets:
            for _ in range(ACCEPTED_AT_ONCE):
                if not self.alive or self.nr_conns >= self.worker_connections or not self.accept(listener):
                    break

    def on_client_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        """The next request of a connection begins."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._collect(conn)

    def on_pending_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        """More of a request came."""
        if self._read(conn):
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            self._hand_over(conn)

    def begin(self, conn: TConn, collected: bytes) -> None:
        """A request is there, or as much of it as is collected."""
        conn.parser.unreader.unread(collected)
        self.enqueue_req(conn)

    def make_parser(self, conn: TConn) -> Any:
        """Of a new connection."""
        return http.get_parser(self.cfg, conn.sock, conn.client)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """An answer is sent; where the next request has begun already, collect the rest of it."""
        self._bytes -= self._handed.pop(conn, 0)
        if fs.cancelled() or fs.exception() is not None or fs.result() is not True:
            self._end(conn)
            return
        begun = conn.parser.unreader.take_buffered()
        if begun:
            self._collect(conn, begun)
        else:
            super().finish_request(conn, fs)

    def murder_pending(self) -> None:
        """Hang up on who did not say enough in time, or did not notice that its connection ends."""
        now = time.monotonic()
        if now < self._judged + JUDGE_SECONDS:
            return
        self._judged = now
        for conn in [conn for conn in self.pending_conns if conn.timeout <= now]:
            self.poller.unregister(conn.sock)
            self.pending_conns.remove(conn)
            self._let_go(conn)
            self._hang_up(conn)
        for conn in [conn for conn in self._closing if conn.timeout <= now]:
            self._closed(conn)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop, without waiting long for who has not asked for anything."""
        super().handle_exit(sig, frame)
        self.method_queue.defer(self._hurry)

    def _hurry(self) -> None:
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, time.monotonic() + LINGER_SECONDS)

    def _collect(self, conn: TConn, begun: bytes = b"") -> None:
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + HEAD_SECONDS
        collected = self._collected[conn] = Collected()
        self._bytes += len(begun)
        if (begun and collected.add(begun)) or self._read(conn):  # most are there already
            self._hand_over(conn)
            return
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, functools.partial(self.on_pending_socket_readable, conn))

    def _read(self, conn: TConn) -> bool:
        """Read what there is. Returns whether that is all that is waited for."""
        part = conn.sock.take(1 << 16)
        if part is None:
            return False
        collected = self._collected[conn]
        self._bytes += len(part)
        conn.timeout = min(conn.timeout + len(part) / RATE, time.monotonic() + HEAD_SECONDS)
        there = collected.add(part)
        if not there and self._bytes > TOTAL_BYTES and len(collected.data) > HEAD_BYTES:
            self._bytes -= len(collected.data)
            collected.data.clear()
            return True
        return there or not part

    def _hand_over(self, conn: TConn) -> None:
        collected = bytes(self._collected[conn].data)
        self._let_go(conn)
        if not collected:  # it was closed before it said anything, or said too much while others do
            self._hang_up(conn)
            return
        if conn.parser is None:
            conn.parser = self.make_parser(conn)
        conn.data_ready = True
        self._handed[conn] = len(collected)
        self._bytes += len(collected)
        self.begin(conn, collected)

    def _let_go(self, conn: TConn) -> None:
        collected = self._collected.pop(conn, None)
        if collected is not None:
            self._bytes -= len(collected.data)

    def _end(self, conn: TConn) -> None:
        """Send nothing more, and close when the client does."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._hang_up(conn)
            return
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + CLOSE_SECONDS
        self._closing[conn] = 0
        self.poller.register(conn.sock, selectors.EVENT_READ, functools.partial(self._drain, conn))

    def _drain(self, conn: TConn, client: ClientSocket) -> None:
        part = client.take(1 << 14)
        if part is None:
            return
        self._closing[conn] += len(part)
        if not part or self._closing[conn] > CLOSE_BYTES:
            self._closed(conn)

    def _closed(self, conn: TConn) -> None:
        del self._closing[conn]
        self.poller.unregister(conn.sock)
        self._hang_up(conn)

    def _hang_up(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()
