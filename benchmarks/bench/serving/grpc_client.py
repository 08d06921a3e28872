"""As much HTTP/2 as one gRPC call after the other needs, so that a server that takes numbers as bytes only by gRPC is not charged for a
slow client.

A frame: length (3 bytes), type, flags, stream (4 bytes), payload. A call: HEADERS, DATA with END_STREAM; its answer: HEADERS, DATA,
HEADERS with END_STREAM. DATA is a zero byte, the message's length (4 bytes), the message. Header fields are sent as literals; those of
the answer are not read, because a call that failed has no DATA.
"""

from __future__ import annotations

import socket
import struct

__all__ = ["GrpcConnection"]

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5
PATH = "/inference.GRPCInferenceService/ModelInfer"


class GrpcConnection:
    """One connection, on which every call is a new stream."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.head, self.answer = "", b""
        self._stream, self._received, self._data, self._waiting = -1, b"", b"", b""
        self._window, self._connection_window, self._stream_window, self._longest = 65_535, 65_535, 65_535, 16_384
        self._headers = b"\x83\x86" + _literal(":path", PATH) + _literal(":authority", f"127.0.0.1:{port}")
        self._headers += _literal("content-type", "application/grpc") + _literal("te", "trailers")
        wide = struct.pack(">HI", INITIAL_WINDOW_SIZE, (1 << 31) - 1)
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(SETTINGS, 0, 0, wide)
            + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
        )
        while not self._settled():
            pass

    def send(self, request: bytes) -> None:
        """Begin a call with this message, already encoded; what the server's window has no room for waits for ``receive``."""
        self._stream += 2
        self._stream_window, self._data = self._window, b""
        self._waiting = b"\0" + struct.pack(">I", len(request)) + request
        self.socket.sendall(_frame(HEADERS, END_HEADERS, self._stream, self._headers) + self._sendable())

    def receive(self) -> bool:
        """Read what is there. Raises ``ConnectionError`` if the call failed."""
        done = False
        for kind, flags, stream, payload in self._frames():
            if kind == DATA and stream == self._stream:
                self._data += payload
            elif kind in (RESET, GOAWAY):
                raise ConnectionError(f"the server ended the call or the connection: {payload[:200]!r}")
            done = done or (kind in (DATA, HEADERS) and stream == self._stream and bool(flags & END_STREAM))
        if self._waiting:
            rest = self._sendable()
            if rest:
                self.socket.sendall(rest)
        if done:
            if len(self._data) <= 5:
                raise ConnectionError("the call failed: its answer has no message")
            self.answer = self._data[5:]
        return done

    def _settled(self) -> bool:
        return any(kind == SETTINGS and not flags & ACK for kind, flags, _, _ in self._frames())

    def _sendable(self) -> bytes:
        """As much of the message as there is room for, in frames."""
        frames = []
        while self._waiting:
            size = min(len(self._waiting), self._longest, self._stream_window, self._connection_window)
            if size <= 0:
                break
            piece, self._waiting = self._waiting[:size], self._waiting[size:]
            self._stream_window -= size
            self._connection_window -= size
            frames.append(_frame(DATA, 0 if self._waiting else END_STREAM, self._stream, piece))
        return b"".join(frames)

    def _frames(self) -> list[tuple[int, int, int, bytes]]:
        """Complete frames that have come; what is the connection's own business is done."""
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise ConnectionError("the server closed the connection")
        data, place, found, replies = self._received + piece, 0, [], b""
        while len(data) - place >= 9:
            size = int.from_bytes(data[place : place + 3], "big")
            if len(data) - place < 9 + size:
                break
            kind, flags = data[place + 3], data[place + 4]
            stream = int.from_bytes(data[place + 5 : place + 9], "big")
            payload = data[place + 9 : place + 9 + size]
            place += 9 + size
            found.append((kind, flags, stream, payload))
            if kind == SETTINGS and not flags & ACK:
                self._set(payload)
                replies += _frame(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                replies += _frame(PING, ACK, 0, payload)
            elif kind == WINDOW_UPDATE:
                more = int.from_bytes(payload, "big")
                if stream == 0:
                    self._connection_window += more
                elif stream == self._stream:
                    self._stream_window += more
        self._received = data[place:]
        if replies:
            self.socket.sendall(replies)
        return found

    def _set(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._window
                self._window = value
            elif name == MAX_FRAME_SIZE:
                self._longest = value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: str, value: str) -> bytes:
    """A header field that is not to be remembered; both texts shorter than 127 bytes."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
