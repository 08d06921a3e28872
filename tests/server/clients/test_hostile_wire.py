"""Bytes on a socket that are no HTTP, or two requests that look like one: the real server answers or hangs up, and goes on.

``ISOFORM_HOSTILE`` as in ``test_hostile.py``; one connection for each ten of its requests.
"""

import http.client
import os
import random
import re
import socket
import time

import pytest
from bench.faults.served import served

CONNECTIONS = max(300, int(os.environ.get("ISOFORM_HOSTILE", "3000")) // 10)
GROWTH_BYTES = 32 << 20
pytestmark = [pytest.mark.timeout(max(300, CONNECTIONS // 10)), pytest.mark.xdist_group("wire")]  # one server for all

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"
INSIDE = b"GET /v1/models/plain/signatures/bob/file HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\n"
SMUGGLED = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INSIDE,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n" % (5 + len(INSIDE)) + INSIDE,
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: %d\r\n\r\n{}" % (2 + len(INSIDE)) + INSIDE,
    "a list of lengths": POST + b"Content-Length: 2, %d\r\n\r\n{}" % (2 + len(INSIDE)) + INSIDE,
    "plus": POST + b"Content-Length: +2\r\n\r\n{}" + INSIDE,
    "hex": POST + b"Content-Length: 0x2\r\n\r\n{}" + INSIDE,
    "negative": POST + b"Content-Length: -2\r\n\r\n" + INSIDE,
    "folded": POST + b"Content-Length:\r\n 2\r\n\r\n{}" + INSIDE,
    "a space before the colon": POST + b"Content-Length : 2\r\n\r\n{}" + INSIDE,
    "a name of bytes": POST + b"Transfer\xa0Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}" + INSIDE,
    "not chunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + INSIDE,
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + INSIDE,
    "a tab": POST + b"Transfer-Encoding:\tchunked\x0b\r\n\r\n0\r\n\r\n" + INSIDE,
    "underscore": POST + b"Transfer_Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}" + INSIDE[:0],
    "a chunk of too much": POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" + INSIDE,
    "a chunk of less than nothing": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + INSIDE,
    "bare line feeds": POST.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}" + INSIDE[:0],
    "a bare carriage return": POST + b"X: a\rContent-Length: 2\r\n\r\n" + INSIDE[:0],
    "a zero byte": POST + b"X: a\0b\r\n\r\n",
}  # fmt: skip
PIECES = [
    b"GET ", b"POST ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"/", b"/v2", b" HTTP/1.1\r\n", b" HTTP/9.9\r\n", b" HTTP/1.0\r\n", b"Host: x\r\n",
    b"\r\n", b"\n", b"\r", b"\0", b"\xff" * 9, b"X: " + b"a" * 9000 + b"\r\n", b"X: y\r\n" * 200, b"A" * 5000, b": \r\n", b" \r\n",
    b"Content-Length: 9\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", b"\x16\x03\x01\x02\x00\x01",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", b"Transfer-Encoding: chunked\r\n",
    b"5\r\nhello\r\n", b"0\r\n\r\n", b"ffffffff\r\n", b"http://evil.example/", b"*", b"?" + b"x" * 4000, b"#", b"%00", b"..",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", b"Forwarded: for=1\r\n", b"Host: a\r\nHost: b\r\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(compiled, tmp_path_factory):
    """A running server with one process, that said nothing of a failure at the end."""
    folder = tmp_path_factory.mktemp("wire")
    with served(compiled, str(folder / "s.db"), folder / "log", "--threads", "8", "--open") as server:
        yield server
    said = (folder / "log").read_text()
    assert "Traceback" not in said, said[-3000:]


def talk(server, data: bytes, *, seconds: float = 10) -> bytes:
    """Send all of it, and nothing more ever; what comes back until the server hangs up."""
    found = b""
    with socket.create_connection((server.host, server.port), timeout=seconds) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                found += part
        except (ConnectionError, BrokenPipeError):
            pass
    return found


def statuses(answer: bytes) -> list[int]:
    """Of every response in there."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) [A-Z]", answer)]


def lives(server) -> bool:
    """Whether it answers, within seconds."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    connection.request("GET", "/v2/health/live")
    status = connection.getresponse().status
    connection.close()
    return status == 200


@pytest.mark.parametrize("shape", SMUGGLED)
def test_a_request_in_a_request_is_not_answered(shape, server) -> None:
    """Where a length can be read in two ways, what was hidden is not answered (that were 404), and the connection ends."""
    answer = talk(server, SMUGGLED[shape])
    found = statuses(answer)
    assert found in ([200], [400], [501], [200, 400], [400, 400]), answer
    assert lives(server)


def test_two_requests_get_two_answers(server) -> None:
    """On one connection, well-formed, one after the other: so the test above can fail."""
    assert statuses(talk(server, GET + b"\r\n" + GET + b"\r\n")) == [200, 200]
    assert statuses(talk(server, POST + b"Content-Length: 2\r\n\r\n{}" + INSIDE)) == [200, 404]


def test_slowly_is_not_never(server) -> None:
    """A request whose bytes come one by one, and one whose client waits to be told to go on, are answered; on one connection."""
    with socket.create_connection((server.host, server.port), timeout=10) as connection:

        def until(end: bytes) -> list[int]:
            found = b""
            while not found.endswith(end):
                part = connection.recv(65536)
                assert part
                found += part
            return statuses(found)

        for byte in POST + b"Content-Length: 2\r\n\r\n{}":
            connection.sendall(bytes([byte]))
            time.sleep(0.002)
        assert until(b"]\n") == [200]
        connection.sendall(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert until(b"\r\n\r\n") == [100]
        connection.sendall(b"{}")
        assert until(b"]\n") == [200]


def test_who_says_nothing_is_hung_up_on(server) -> None:
    """After a while; and one who waits for nothing does not hold up the end of the server, which ``served`` would say."""
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(GET)
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert 5 < time.monotonic() - began < 25


def test_garbage(server, capsys) -> None:
    """Thousands of connections with bytes of all kinds: no 5xx, no memory that grows, and it answers afterwards."""
    rng, counts, start = random.Random(0), {}, 0
    for number in range(CONNECTIONS):
        if number == CONNECTIONS // 10:
            start = server.memory_bytes()
        data = b"".join(rng.choices([*PIECES, *4 * [GET, POST, GET + b"\r\n", INSIDE]], k=rng.randint(1, 8)))
        if rng.random() < 0.2:
            data = rng.randbytes(rng.randint(0, 200))
        if rng.random() < 0.3:
            spoilt = bytearray(rng.choice([*SMUGGLED.values()]))
            for _ in range(rng.randint(1, 4)):
                spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
            data = bytes(spoilt)
        for status in statuses(talk(server, data)):
            counts[status] = counts.get(status, 0) + 1
            assert status < 500 or status in (501, 505), data
    grown = server.memory_bytes() - start
    with capsys.disabled():
        print(
            f"\nwire: {CONNECTIONS} connections; statuses {counts}; the workers' memory grew by {grown / 2**20:.1f} MiB"
        )
    assert {200, 400, 404} <= set(counts)
    assert grown < GROWTH_BYTES
    assert lives(server)


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n"
STARTS = {
    "nothing": b"", "half a head": GET, "half a body": POST + b"Content-Length: 1000\r\n\r\n{", "half a chunk": CHUNKED,
    "one and a half": GET + b"\r\n" + GET,
}  # fmt: skip


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_who_sends_slowly_stops_nobody(start, server) -> None:
    """Forty clients who begin and do not go on: others are answered meanwhile."""
    slow = [socket.create_connection((server.host, server.port), timeout=10) for _ in range(40)]
    try:
        for connection in slow:
            connection.sendall(start)
        time.sleep(1)
        assert lives(server)
    finally:
        for connection in slow:
            connection.close()
    assert lives(server)
