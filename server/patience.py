"""A gunicorn worker that gives a request to a thread when it is there, not when it begins: who sends slowly holds no thread.

gunicorn's own threads read heads and bodies themselves and wait as long as it takes, so that as many clients as there are threads, each
with half a request, stop a process. Here its loop collects:

    a head              until its empty line, at most ``HEAD_BYTES`` and for ``HEAD_SECONDS``
    a short body        of at most ``BODY_BYTES``, while all that are collected take at most ``TOTAL_BYTES``

What is longer a thread reads; it hangs up on who is slower than ``RATE`` bytes a second after ``STALL_SECONDS``, and on who does not take
an answer within ``SEND_SECONDS``.
"""

from __future__ import annotations

import functools
import re
import selectors
import socket
import time
from concurrent.futures import Future
from typing import Any

from gunicorn import http
from gunicorn.workers.gthread import TConn, ThreadWorker

__all__ = ["PatientWorker"]

HEAD_BYTES = 64 << 10
HEAD_SECONDS = 15.0
"""A head, and a short body, have to be there by then."""
BODY_BYTES = 1 << 20
TOTAL_BYTES = 64 << 20
STALL_SECONDS = 15.0
RATE = 4096
SEND_SECONDS = 60.0
LINGER_SECONDS = 2.0
"""So long a process that stops waits for those who have not asked for anything yet."""
_AT_ONCE = re.compile(rb"\r\nexpect:", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*\r\n", re.IGNORECASE)


class _Socket(socket.socket):
    """A client's, that a thread does not wait for without an end."""

    _deadline = 0.0
    _held: bytes | None = None

    def hold(self) -> None:
        """The next ``sendall`` waits for the one after it: a head and a body in one packet."""
        self._held = b""

    def setblocking(self, flag: bool, /) -> None:
        """Whoever wants to wait begins to now."""
        super().setblocking(flag)
        self._deadline = time.monotonic() + STALL_SECONDS

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Raises ``ConnectionResetError`` when the client is too slow, as if it had gone."""
        if self.gettimeout() == 0.0:
            return super().recv(size, flags)
        left = self._deadline - time.monotonic()
        wanted = self.gettimeout()
        super().settimeout(max(0.001, left if wanted is None else min(left, wanted)))
        try:
            found = super().recv(size, flags)
        except TimeoutError:
            if wanted is not None and left > wanted:
                raise
            raise ConnectionResetError(104, "the client sends too slowly") from None
        finally:
            super().settimeout(wanted)
        self._deadline += len(found) / RATE
        return found

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Raises ``ConnectionResetError`` when the client does not take it."""
        if self._held is not None:
            if not self._held:
                self._held = bytes(data)
                return
            data, self._held = self._held + bytes(data), None
        wanted = self.gettimeout()
        super().settimeout(SEND_SECONDS if wanted is None else wanted)
        try:
            super().sendall(data, flags)
        except TimeoutError:
            raise ConnectionResetError(104, "the client does not take its answer") from None
        finally:
            super().settimeout(wanted)


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """``gthread``, with collecting."""

    connection_class = TConn

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._collected = dict[TConn, bytearray]()
        self._bytes = 0

    def accept(self, listener: socket.socket) -> None:
        """Take a connection, and wait for what it says."""
        try:
            accepted, address = listener.accept()
        except OSError:
            return  # another process was faster, or the client is gone
        client = _Socket(fileno=accepted.detach())
        self.nr_conns += 1
        self._collect(self.connection_class(self.cfg, client, address, listener.getsockname()))

    def on_client_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        """The next request of a connection begins."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._collect(conn)

    def on_pending_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        """More of a request came."""
        collected = self._collected[conn]
        try:
            part = client.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        collected += part
        self._bytes += len(part)
        if part and not self._is_there(collected, fresh=len(part)):
            return
        self.poller.unregister(client)
        self.pending_conns.remove(conn)
        if collected:
            self._hand_over(conn)
        else:  # it was closed before it said anything
            self._let_go(conn)
            self.nr_conns -= 1
            conn.close()

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """An answer is sent; where the next request has begun already, collect the rest of it."""
        goes_on = not fs.cancelled() and fs.exception() is None and fs.result() is True
        begun = conn.parser.unreader.take_buffered() if goes_on else b""
        if begun:
            self._collect(conn, begun)
        else:
            super().finish_request(conn, fs)

    def murder_pending(self) -> None:
        """Hang up on who did not say enough in time."""
        waiting = list(self.pending_conns)
        super().murder_pending()
        for conn in waiting[: len(waiting) - len(self.pending_conns)]:
            self._let_go(conn)

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
        self._collected[conn] = bytearray(begun)
        self._bytes += len(begun)
        if self._is_there(self._collected[conn], fresh=len(begun)):
            self._hand_over(conn)
            return
        self.pending_conns.append(conn)
        ready = functools.partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, ready)
        ready(conn.sock)  # most are there already

    def _hand_over(self, conn: TConn) -> None:
        collected = bytes(self._collected[conn])
        self._let_go(conn)
        if conn.parser is None:
            conn.parser = http.get_parser(self.cfg, conn.sock, conn.client)
        conn.parser.unreader.unread(collected)
        conn.data_ready = True
        self.enqueue_req(conn)

    def _let_go(self, conn: TConn) -> None:
        self._bytes -= len(self._collected.pop(conn, b""))

    def _is_there(self, collected: bytes | bytearray, *, fresh: int) -> bool:
        """Whether a thread should have it now; its last ``fresh`` bytes are new."""
        end = collected.find(b"\r\n\r\n")
        if end < 0:
            return len(collected) > HEAD_BYTES or b"\n\n" in collected
        if (
            _AT_ONCE.search(collected, 0, end + 2) or self._bytes > TOTAL_BYTES
        ):  # who expects 100 says nothing before it comes
            return True
        if _CHUNKED.search(collected, 0, end + 2):
            return (
                len(collected) > BODY_BYTES
                or collected.find(b"\r\n0\r\n", max(end + 2, len(collected) - fresh - 4)) >= 0
            )
        length = _LENGTH.search(collected, 0, end + 2)
        if length is None or int(length[1]) > BODY_BYTES:
            return True
        return len(collected) >= end + 4 + int(length[1])
