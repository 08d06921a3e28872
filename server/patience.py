"""A gunicorn worker that gives a request to a thread when it is there, not when it begins: who sends slowly holds no thread.

gunicorn's own threads read heads and bodies themselves and wait as long as it takes, so that as many clients as there are threads, each
with half a request, stop a process. Here its loop collects:

    a head              until its empty line, at most ``HEAD_BYTES`` and for ``HEAD_SECONDS``, and longer for who sends fast enough
    a short body        of at most ``BODY_BYTES``, while all that are collected take at most ``TOTAL_BYTES``

What is longer a thread reads; it hangs up on who is slower than ``RATE`` bytes a second after ``STALL_SECONDS``, and on who does not take
an answer within ``SEND_SECONDS``.
"""

from __future__ import annotations

import errno
import functools
import re
import select
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
    """A client's, that a thread does not wait for without an end.

    It never blocks in the kernel: whoever wants to wait waits by ``poll``, so that changing between both is no system call. A system call
    more is little; but each lets another thread run first, and it may be a while until this one runs again.
    """

    _patience: float | None = 0.0
    """As ``gettimeout``: 0 not to wait, None to wait as long as it is allowed here."""
    _deadline = 0.0
    _held: bytes | None = None
    _never = False

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(fileno=accepted.detach())
        super().setblocking(False)

    def setblocking(self, flag: bool, /) -> None:
        """Whoever wants to wait begins to now."""
        self.settimeout(None if flag else 0.0)

    def settimeout(self, value: float | None, /) -> None:
        """As any socket's; None is ``STALL_SECONDS``, and more for who sends fast enough."""
        self._patience = value
        self._deadline = time.monotonic() + (STALL_SECONDS if value is None else value)

    def gettimeout(self) -> float | None:
        """As it was set."""
        return self._patience

    def never_wait(self, flag: bool, /) -> None:
        """Whether reading and writing fail where they would have to wait, whatever timeout is set."""
        self._never = flag

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Raises ``ConnectionResetError`` when the client is too slow, as if it had gone; ``TimeoutError`` where a timeout was set."""
        while True:
            try:
                found = super().recv(size, flags)
            except BlockingIOError:
                if self._patience == 0.0 or flags & socket.MSG_DONTWAIT:
                    raise
                if not self._ready(select.POLLIN, self._deadline):
                    if self._patience is not None:
                        raise TimeoutError("timed out") from None
                    raise ConnectionResetError(errno.ECONNRESET, "the client sends too slowly") from None
            else:
                self._deadline += len(found) / RATE
                return found

    def hold(self) -> None:
        """The next ``sendall`` waits for the one after it: a head and a body in one packet."""
        self._held = b""

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Raises ``ConnectionResetError`` when the client does not take it."""
        if self._held is not None:
            if not self._held:
                self._held = bytes(data)
                return
            data, self._held = self._held + bytes(data), None
        rest, end = memoryview(data), 0.0
        while rest:
            try:
                rest = rest[self.send(rest, flags) :]
            except BlockingIOError:
                end = end or time.monotonic() + (self._patience or SEND_SECONDS)
                if not self._ready(select.POLLOUT, end):
                    raise ConnectionResetError(errno.ECONNRESET, "the client does not take its answer") from None

    def _ready(self, event: int, end: float) -> bool:
        if self._never:
            return False
        poll = select.poll()
        poll.register(self, event)
        return bool(poll.poll(max(0.0, 1e3 * (end - time.monotonic()))))


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """``gthread``, with collecting."""

    connection_class = TConn

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._collected = dict[TConn, bytearray]()
        self._bytes, self._judged = 0, 0.0

    def accept(self, listener: socket.socket) -> None:
        """Take a connection, and wait for what it says."""
        try:
            accepted, address = listener.accept()
        except OSError:
            return  # another process was faster, or the client is gone
        client = _Socket(accepted)
        self.nr_conns += 1
        self._collect(self.connection_class(self.cfg, client, address, listener.getsockname()))

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
        now = time.monotonic()
        if now < self._judged + 0.5:
            return
        self._judged = now
        for conn in [conn for conn in self.pending_conns if conn.timeout <= now]:
            self.poller.unregister(conn.sock)
            self.pending_conns.remove(conn)
            self._let_go(conn)
            self._hang_up(conn)

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
        if self._is_there(self._collected[conn], fresh=len(begun)) or self._read(conn):  # most are there already
            self._hand_over(conn)
            return
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, functools.partial(self.on_pending_socket_readable, conn))

    def _read(self, conn: TConn) -> bool:
        """Read what there is. Returns whether that is all that is waited for."""
        try:
            part = conn.sock.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            part = b""
        collected = self._collected[conn]
        collected += part
        self._bytes += len(part)
        conn.timeout += len(part) / RATE
        return not part or self._is_there(collected, fresh=len(part))

    def _hand_over(self, conn: TConn) -> None:
        collected = bytes(self._collected[conn])
        self._let_go(conn)
        if not collected:  # it was closed before it said anything
            self._hang_up(conn)
            return
        if conn.parser is None:
            conn.parser = http.get_parser(self.cfg, conn.sock, conn.client)
        conn.parser.unreader.unread(collected)
        conn.data_ready = True
        self.begin(conn, collected)

    def begin(self, conn: TConn, collected: bytes) -> None:  # noqa: ARG002 - for those who choose by what it is
        """A request is there, or as much of it as is collected."""
        self.enqueue_req(conn)

    def _hang_up(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()

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
