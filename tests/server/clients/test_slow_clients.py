"""Clients that are slow or silent, that take no answer, or are too many: the real application in this process, with short limits.

What seconds are here are fractions of one; ``test_odd_clients.py`` asks a server as it is.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from bench.faults.unbounded import many_classes
from bodies import binary
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import LOOPS, answer_of, here, statuses, talk

from isoform.runtime.formats.bundle import Bundle
from isoform.server.access.keys import Keys
from isoform.server.app import create_app
from isoform.server.clients import connections, transfer
from isoform.server.process import watched
from isoform.server.service.settings import Settings

SECONDS = 0.4
"""What is 15 s in a server as it is."""
INFER = b"POST /v2/models/plain/infer HTTP/1.1\r\nHost: localhost\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIMITS = {
    connections: {
        "HEAD_SECONDS": SECONDS,
        "CLOSE_SECONDS": SECONDS,
        "PAUSE_SECONDS": SECONDS / 4,
        "SWEEP_SECONDS": 0.02,
    },
    transfer: {"SILENT_SECONDS": SECONDS, "RATE": 20_000},
}
PATIENT = {transfer: {"SILENT_SECONDS": 20}, connections: {"HEAD_SECONDS": 20}}
"""For what happens at once: other tests may have the processors for a second, and no limit may pass meanwhile."""


@contextlib.contextmanager
def limits(more: dict[ModuleType, dict[str, float]]):
    """Short ones, and some more."""
    with pytest.MonkeyPatch.context() as patch:
        for module, values in (*LIMITS.items(), *more.items()):
            for name, value in values.items():
                patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def server(runtime):
    """The application without keys and with short limits; it keeps an idle connection for a second."""
    app = create_app(runtime, settings=Settings(max_body_bytes=1 << 20))
    with limits({}), here(app, keep_alive_seconds=1) as found:
        yield found


def took(server, *parts: bytes, pauses: float = 0.0) -> tuple[list[int], float]:
    """Send parts with pauses; statuses of what comes back until the server closes the connection, and after how long that is."""
    began, found = time.monotonic(), b""
    with socket.create_connection(server.address, timeout=10) as connection:
        for part in parts:
            if pauses:
                time.sleep(pauses)
            try:
                connection.sendall(part)
            except OSError:
                break
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                found += piece
    return statuses(found), time.monotonic() - began


def until(holds: Callable[[], bool]) -> bool:
    """Whether it does, at once or after a while."""
    end = time.monotonic() + 5
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def settled(server) -> dict[str, int]:
    """What is counted, once it is nothing, or after a while."""
    until(lambda: not any(server.counted().values()))
    return server.counted()


@pytest.mark.parametrize(
    "start", [b"", LIVE[:20], INFER + b"Content-Le", LIVE + LIVE[:-2]], ids=["silent", "line", "head", "second"]
)
def test_a_head_that_does_not_come_is_not_waited_for(start, server) -> None:
    """A silent connection, half a head, and half a second one: closed after HEAD_SECONDS, without an answer to it."""
    found, seconds = took(server, start)
    assert found == [200] * (start.startswith(LIVE))
    assert SECONDS / 2 < seconds < SECONDS + 3


def test_a_head_byte_by_byte_has_the_same_time(server) -> None:
    """A client that sends a byte now and then is not silent, and is closed all the same."""
    found, seconds = took(server, *(bytes([byte]) for byte in LIVE), pauses=0.05)
    assert found == []
    assert seconds < len(LIVE) * 0.05


def test_a_body_that_is_announced_and_not_sent_is_408(server) -> None:
    """After SILENT_SECONDS, and the connection is closed."""
    found, seconds = took(server, INFER + b"Content-Length: 90000\r\n\r\n{")
    assert found == [408]
    assert SECONDS / 2 < seconds < 3 * SECONDS + 3


def test_without_a_key_nobody_waits_for_a_body(runtime, store) -> None:
    """401 at once, as long as nothing of the body has come; if it does not come, the connection is closed."""
    keys = Keys(store)
    app = create_app(runtime, store=store, keys=keys)
    with limits({transfer: PATIENT[transfer]}), here(app) as server:
        with socket.create_connection(server.address, timeout=10) as connection:
            connection.sendall(INFER + b"Content-Length: 90000\r\n\r\n")
            assert answer_of(connection).startswith(b"HTTP/1.1 401 ")
            assert connection.recv(1) == b""
        assert not any(settled(server).values())


@pytest.mark.parametrize(("rate", "status"), [(0.4, 408), (2.0, 400)])
def test_a_slow_body_is_read_above_the_rate_only(rate, status, server) -> None:
    """A client that sends less than RATE on average is 408, however regularly it sends; above it the body is read (and is no JSON)."""
    part = bytes(int(20_000 * rate * 0.05))
    count = 30
    head = INFER + f"Connection: close\r\nContent-Length: {len(part) * count}\r\n\r\n".encode()
    assert took(server, head, *[part] * count, pauses=0.05)[0] == [status]


@pytest.mark.trust
def test_an_unread_body_is_thrown_away_for_a_while_only(server) -> None:
    """A client that goes on sending what nobody reads has its answer, and is closed after HEAD_SECONDS."""
    head = b"POST /v2/models/none/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n"
    found, seconds = took(server, head, *[bytes(1000)] * 60, pauses=0.03)
    assert found == [404]
    assert seconds < 60 * 0.03


@pytest.mark.trust
@pytest.mark.parametrize(("pauses", "count"), [(SECONDS / 40, 4), (10.0, 1)], ids=["goes on", "stops"])
def test_a_client_that_is_closed_may_send_the_rest(pauses, count, server) -> None:
    """Of a body that is refused with the end of the connection: as long as something comes; it has its answer, whatever it does."""
    part = bytes(1000)
    head = f"POST /v2/models/none/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {4 * len(part)}\r\n\r\n"
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(head.encode())
        for _ in range(count):
            connection.sendall(part)
            time.sleep(min(pauses, SECONDS))
        assert answer_of(connection).startswith(b"HTTP/1.1 404 ")
        assert connection.recv(1) == b""
        assert not any(settled(server).values())


@pytest.mark.trust
@pytest.mark.parametrize("size", [0, 300_000])
def test_a_connection_is_idle_from_when_all_has_come(size, server) -> None:
    """After a body that nobody read as after any other, it stays open for --keep-alive, and longer than an unread body may take."""
    head = f"POST /v2/models/none/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(head + bytes(size))
        time.sleep(1.3 * SECONDS)
        connection.sendall(head + bytes(size))
        began, found = time.monotonic(), b""
        while piece := connection.recv(65536):
            found += piece
        assert statuses(found) == [404, 404]
        assert 0.7 < time.monotonic() - began < 5


def unread(server, data: bytes):
    """A connection whose client sends something and takes little of what comes."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(10)
    connection.connect(server.address)
    connection.sendall(data)
    return connection


def test_a_client_that_takes_no_long_answer_is_given_up(compiled, runtime, store) -> None:
    """After SILENT_SECONDS, and CLOSE_SECONDS later its connection is gone; nothing of the answer is counted any longer."""
    signature = many_classes(Bundle.load(compiled), "plain")
    store.append("plain", "alice", digest=signature.digest, data=signature.encode(), action="put", actor="setup")
    wanted = {"outputs": [{"name": "logits"}], "binary_data_output": True, "signature": "alice"}
    body, headers = binary(np.zeros((2000, 1, 32, 32)), **wanted)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + f"Content-Length: {len(body)}\r\n\r\n"
    app = create_app(runtime, store=store)
    with limits({}), here(app) as server, contextlib.closing(unread(server, INFER + head.encode() + body)):
        assert until(lambda: server.counted()["transferred"] >= 2 * len(body) - 1_000_000)
        assert app.extensions["isoform"].memory.used > 2 * len(body)
        assert not any(settled(server).values())
        assert app.extensions["isoform"].memory.used == 0


def test_a_client_that_takes_no_short_answers_is_given_up(server) -> None:
    """Who asks and asks (pipelining) and reads nothing is closed as soon as what waits for it is too much, after the same time."""
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.closing(unread(server, ask * 300)):
        assert not any(settled(server).values())


@pytest.mark.parametrize("end", ["FIN", "RST"])
@pytest.mark.parametrize("size", [1000, 900_000])
def test_a_client_that_is_gone_holds_nothing(size, end, server) -> None:
    """In the middle of a body: it is known at once, and nothing is counted any longer; who only says that no more comes gets 400."""
    connection = socket.create_connection(server.address, timeout=10)
    connection.sendall(INFER + f"Content-Length: {size}\r\n\r\n".encode() + bytes(size // 2))
    time.sleep(0.05)
    if end == "FIN":
        connection.shutdown(socket.SHUT_WR)
        assert answer_of(connection).startswith(b"HTTP/1.1 400 ")
        assert connection.recv(65536) == b""
    else:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert not any(settled(server).values())


@pytest.mark.trust
@pytest.mark.parametrize("oldest", [[310_000], [60_000] * 8], ids=["a long one", "short ones"])
def test_too_much_on_its_way_ends_the_oldest(oldest, runtime) -> None:
    """Above TOTAL_BYTES the transfer that began first gets 503 and is closed, short or long; a later one is read, and is as good as ever."""
    app, patient = (
        create_app(runtime, settings=Settings(memory_bytes=1 << 20)),
        {transfer: {"TOTAL_BYTES": 300_000, "SILENT_SECONDS": 20}},
    )
    with limits(patient), here(app) as server, contextlib.ExitStack() as stack:

        def half(size: int) -> socket.socket:
            connection = stack.enter_context(socket.create_connection(server.address, timeout=10))
            connection.sendall(INFER + f"Content-Length: {size}\r\n\r\n".encode() + bytes(size - 10))
            time.sleep(0.05)
            return connection

        before = [half(size) for size in oldest]
        last = half(310_000)
        answer = answer_of(before[0])
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"connection: close" in answer.lower()
        last.sendall(bytes(10))
        assert answer_of(last).startswith(b"HTTP/1.1 400 ")


@pytest.mark.trust
def test_a_body_that_is_allowed_is_never_too_much_alone(runtime) -> None:
    """Whatever --max-body-mb is: what may be on its way follows from --request-memory-mb."""
    app = create_app(runtime, settings=Settings(max_body_bytes=100 << 20, memory_bytes=1 << 30))
    with here(app) as server:
        size = transfer.TOTAL_BYTES + (1 << 20)
        head = INFER + f"Connection: close\r\nContent-Length: {size}\r\n\r\n".encode()
        assert statuses(talk(server.address, head, bytes(size))[0]) == [400]


@pytest.mark.trust
def test_too_many_connections_close_the_idle_ones(runtime) -> None:
    """Each new one closes the one that is idle for longest; one with a request stays, and if all have, the new one is closed."""
    with limits(PATIENT), here(create_app(runtime), most=6) as server, contextlib.ExitStack() as stack:

        def connected() -> socket.socket:
            return stack.enter_context(socket.create_connection(server.address, timeout=10))

        busy = connected()
        busy.sendall(INFER + b"Content-Length: 3\r\n\r\n1")
        assert until(lambda: server.counted()["transferred"] == 1)
        idle = [connected() for _ in range(20)]
        assert until(lambda: server.counted()["open"] == 6)
        assert [connection.recv(1) for connection in idle[:15]] == [b""] * 15
        for connection in idle[15:]:
            connection.sendall(INFER + b"Content-Length: 3\r\n\r\n1")
        assert until(lambda: server.counted()["transferred"] == 6)
        assert connected().recv(1) == b""
        busy.sendall(b"23")
        assert answer_of(busy).startswith(b"HTTP/1.1 400 ")


ENDLESS = {
    "a field": b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 200_000,
    "a target": b"GET /" + b"a" * 200_000,
    "fields": b"GET /v2 HTTP/1.1\r\n" + b"a:\r\n" * 50_000,
    "a trailer": INFER + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 200_000,
    "trailers": INFER + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a:\r\n" * 50_000,
    "an extension": INFER + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 200_000,
}


@pytest.mark.trust
@pytest.mark.parametrize("kind", ENDLESS)
def test_a_head_without_an_end_is_cut(kind, runtime) -> None:
    """Also one that is behind a body (trailers), or between its chunks: after HEAD_BYTES, at once."""
    with limits(PATIENT), here(create_app(runtime)) as server:
        connection = socket.create_connection(server.address, timeout=10)
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(ENDLESS[kind])
            while connection.recv(65536):
                pass
        assert not any(settled(server).values())


@pytest.mark.trust
def test_heads_without_an_end_stop_nobody(runtime) -> None:
    """Many of them are bounded together: the oldest are closed, and not a client that sends a long request meanwhile."""
    few = {connections: {"TOTAL_BYTES": 200_000, "HEAD_SECONDS": 20}}
    with limits(few), here(create_app(runtime)) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(server.address, timeout=10)) for _ in range(20)]
        for connection in slow:
            connection.sendall(ENDLESS["a field"][:40_000])
        assert until(lambda: server.counted()["bytes"] > 100_000)
        assert server.counted()["bytes"] <= 200_000
        head = INFER + b"Connection: close\r\nContent-Length: 500000\r\n\r\n"
        assert statuses(talk(server.address, head + bytes(500_000))[0]) == [400]
        assert slow[0].recv(1) == b""


BODY = binary(np.zeros((1, 1, 32, 32)))
GOOD = (
    INFER
    + "".join(f"{name}: {value}\r\n" for name, value in BODY[1].items()).encode()
    + b"Content-Length: %d\r\n\r\n" % len(BODY[0])
    + BODY[0]
)
PIECES = [
    LIVE, LIVE * 5, GOOD, GOOD + LIVE, LIVE[:-2], GOOD[:-9], b"\r\n\r\n", b"\0garbage", INFER + b"Content-Length: 70000\r\n\r\n", bytes(3000), bytes(70_000),
    INFER + b"Transfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n0\r\nX: y\r\n\r\n", INFER + b"Transfer-Encoding: chunked\r\n\r\n3\r\n{", b"X: " + b"y" * 900,
    b"POST /v2/models/none/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\n", b"GET /v2 HTTP/1.0\r\nHost: localhost\r\n\r\n",
    b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", INFER + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" * 80, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
]  # fmt: skip
ENDS = ["FIN", "RST", "close", "reads"]
scripts = st.lists(
    st.tuples(st.lists(st.sampled_from(PIECES), max_size=5), st.sampled_from(ENDS)), min_size=1, max_size=12
)


@pytest.fixture(scope="module", params=LOOPS, ids=[loops.__module__ for loops in LOOPS])
def tight(request, runtime):
    """The application with limits that are met all the time."""
    few = {
        connections: {
            "HEAD_BYTES": 2000,
            "REQUEST_BYTES": 500,
            "TOTAL_BYTES": 5000,
            "HEAD_SECONDS": 0.1,
            "CLOSE_SECONDS": 0.1,
        },
        watched: {"QUEUED": 2, "PIECE_BYTES": 100, "BODY_BYTES": 500, "MOST_FIELDS": 100},
        transfer: {"TOTAL_BYTES": 100_000, "SHORT_BYTES": 1000, "SILENT_SECONDS": 0.1},
    }
    app = create_app(runtime, settings=Settings(max_body_bytes=1 << 20, memory_bytes=1 << 20))
    with limits(few), here(app, most=8, by_loop=request.param is LOOPS[0], loops=request.param) as server:
        yield server


@pytest.mark.trust
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(clients=scripts)
def test_whatever_clients_do_nothing_is_left(clients, tight) -> None:
    """Any bytes in any order, at limits that are met, and any end: all counters are 0 again, and the server answers."""
    opened = []
    for data, end in clients:
        connection = socket.create_connection(tight.address, timeout=10)
        opened.append((connection, end))
        with contextlib.suppress(OSError):
            for piece in data:
                connection.sendall(piece)
    for connection, end in opened:
        with connection, contextlib.suppress(OSError):
            if end == "FIN":
                connection.shutdown(socket.SHUT_WR)
            if end in ("FIN", "reads"):
                connection.settimeout(0.5)
                while connection.recv(65536):
                    pass
            elif end == "RST":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert not any(settled(tight).values()), clients
    assert statuses(talk(tight.address, LIVE, ends=True)[0]) == [200]
