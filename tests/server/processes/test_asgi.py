"""The ASGI application by itself: what it makes of a scope, in which order it reads, how it opens and closes."""

import asyncio
import contextlib
import gzip
import logging
import threading
import urllib.parse

import numpy as np
import pytest
from bodies import INFER, binary
from flask import request
from hypothesis import given
from hypothesis import strategies as st
from scopes import Client, scope_of

from isoform.runtime.errors import BundleError
from isoform.server.app import create_app
from isoform.server.http.asgi import CONNECTION, Asgi
from isoform.server.http.environ import BodyNeeded, environ_of, set_body


@pytest.mark.trust
@given(st.binary(max_size=30), st.booleans())
def test_every_byte_of_a_path_survives(path, quoted) -> None:
    """PATH_INFO is the path's bytes, one character each, as WSGI has it, also where they are no UTF-8; with all of them quoted, or few."""
    sent = b"/" + (b"".join(b"%%%02X" % byte for byte in path) if quoted else urllib.parse.quote(path).encode())
    assert environ_of(scope_of(sent))["PATH_INFO"].encode("latin-1") == b"/" + path


NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=9)


@pytest.mark.trust
@given(st.lists(st.tuples(NAMES, st.binary(max_size=9)), max_size=9), st.binary(max_size=9))
def test_every_byte_of_a_header_survives(fields, query) -> None:
    """Each value is the header's bytes, one character each; of one name they are joined with commas, in order; the query is as it was sent."""
    environ = environ_of(scope_of(headers=[(name.encode(), value) for name, value in fields], query_string=query))
    for name in {name for name, _ in fields} - {"host"}:
        key = name.upper().replace("-", "_")
        found = environ[key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"]
        assert found.encode("latin-1") == b",".join(value for other, value in fields if other == name)
    assert environ["QUERY_STRING"].encode("latin-1") == query


def test_what_a_scope_may_lack() -> None:
    """A Unix socket has no client address, and no port; a mounted application has its prefix apart."""
    environ = environ_of(scope_of(client=None, server=("/run/x.sock", None)))
    assert "REMOTE_ADDR" not in environ
    assert environ["SERVER_PORT"] == "0"
    mounted = environ_of(scope_of(b"/a/v2", root_path="/a"))
    assert (mounted["SCRIPT_NAME"], mounted["PATH_INFO"]) == ("/a", "/v2")
    assert "HTTP_X_FORWARDED_FOR" not in environ_of(scope_of(headers=[(b"x_forwarded-for", b"1.2.3.4")]))


def test_a_body_is_there_or_needed() -> None:
    """Whoever reads one that is not there yet stops; afterwards it has a length, and is not in chunks."""
    environ = environ_of(scope_of(headers=[(b"transfer-encoding", b"chunked")]))
    for name in ("read", "readline", "readlines"):
        with pytest.raises(BodyNeeded):
            getattr(environ["wsgi.input"], name)()
    with pytest.raises(BodyNeeded):
        list(environ["wsgi.input"])
    set_body(environ, b"abc")
    assert (environ["wsgi.input"].read(), environ["CONTENT_LENGTH"]) == (b"abc", "3")
    assert "HTTP_TRANSFER_ENCODING" not in environ


def answered(app, scope: dict, client: Client) -> Client:
    """Let an application answer one request, without a lifespan."""

    async def run() -> None:
        asgi = Asgi(lambda: contextlib.nullcontext(app), threads=1, by_loop=True)
        try:
            await asgi(scope, client.receive, client.send)
        finally:
            asgi.close()

    asyncio.run(run())
    return client


CHUNKED = [(b"transfer-encoding", b"chunked"), (b"content-type", b"application/json")]


@pytest.mark.trust
def test_a_route_that_wants_its_body_runs_again(runtime, caplog) -> None:
    """First without it, so that a refusal needs none; then with all of it. Whoever sent it is judged and written down once."""
    app, client = create_app(runtime), Client(b"ab", b"", b"c" * 100_000)

    @app.post("/test")
    def route() -> str:
        client.events.append("route")
        data = request.get_data()
        client.events.append("has it")
        return str(len(data))

    with caplog.at_level(logging.INFO, "isoform.access"):
        answered(app, scope_of(b"/test", "POST", CHUNKED), client)
    assert client.events == ["route", "receive", "receive", "receive", "route", "has it"]
    assert (client.status, client.body) == (200, b"100002")


@pytest.mark.trust
def test_a_signature_in_chunks(runtime, store) -> None:
    """A body without a length is read by Flask's routes, too (``curl -T -``), once: one revision."""
    data = runtime.signature("plain").encode()
    scope = scope_of(b"/v1/models/plain/signatures/alice", "PUT", [(b"transfer-encoding", b"chunked")])
    client = answered(create_app(runtime, store=store), scope, Client(data[:100], data[100:]))
    assert client.status == 201, client.body
    assert [revision.revision for revision in store.history("plain", "alice")] == [1]


@pytest.mark.parametrize("unpacked", [False, True], ids=["plain", "compressed"])
def test_a_short_body_may_be_long_unpacked(unpacked, runtime, monkeypatch) -> None:
    """The loop makes a prediction of a few kilobytes, but not of what may unpack to thousands of samples: 16 kB stopped it for a second."""
    body, headers = binary(np.zeros((200 if unpacked else 1, 1, 32, 32)))
    headers |= {"Content-Length": str(len(body))} | ({"Content-Encoding": "gzip"} if unpacked else {})
    threads, predict = list[bool](), type(runtime).predict

    def noted(*arguments, **named):
        threads.append(threading.current_thread() is not threading.main_thread())
        return predict(*arguments, **named)

    monkeypatch.setattr(type(runtime), "predict", noted)
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    sent = gzip.compress(body) if unpacked else body
    client = answered(create_app(runtime), scope_of(INFER.encode(), "POST", fields), Client(sent))
    assert (client.status, threads) == (200, [unpacked])


def test_a_route_that_refuses_reads_nothing(runtime) -> None:
    """Nor does one that needs no body, and none is read for health or for a task that is not there."""
    for method, path, status in (
        ("POST", b"/v2/models/none/infer", 404), ("GET", b"/v2/health/live", 200), ("GET", b"/v2/health/ready", 200),
        ("GET", b"/v2", 200), ("PATCH", b"/v2", 405), ("POST", b"/nothing", 404),
    ):  # fmt: skip
        client = answered(create_app(runtime), scope_of(path, method, CHUNKED), Client(b"x" * 100_000))
        assert (client.status, client.events) == (status, []), path


@pytest.mark.trust
@pytest.mark.parametrize("state", [None, {}, {"theirs": 1}])
def test_a_state_that_is_not_ours_is_left_alone(state, runtime) -> None:
    """What another server, or an application around this one, keeps in a scope's state."""
    scope = scope_of(b"/v2/health/live", state=state)
    assert answered(create_app(runtime), scope, Client()).status == 200
    assert CONNECTION not in (scope["state"] or {})
    assert answered(create_app(runtime), scope_of(b"/v2/health/live"), Client()).status == 200


def test_a_start_that_fails_is_said(caplog) -> None:
    """To the server, in one line, which then does not start; an error of ours and any other."""
    sent = list[dict]()

    async def receive() -> dict:
        return {"type": "lifespan.startup"}

    async def send(message: dict) -> None:
        sent.append(message)

    for problem in (BundleError("there is no bundle"), OSError("no such file")):

        @contextlib.contextmanager
        def opened(problem=problem):
            raise problem
            yield

        asyncio.run(Asgi(opened, threads=1, by_loop=True)({"type": "lifespan"}, receive, send))
        assert sent.pop() == {"type": "lifespan.startup.failed", "message": str(problem)}
        assert not sent
        assert str(problem) in caplog.text


def test_opened_and_closed_once(runtime) -> None:
    """By the lifespan, or by the first request of a server that has none; closed when it ends."""
    events, app = list[str](), create_app(runtime)

    @contextlib.contextmanager
    def opened():
        events.append("opened")
        yield app
        events.append("closed")

    async def run() -> None:
        asgi, said, stop = Asgi(opened, threads=1, by_loop=True), list[str](), asyncio.Event()

        async def receive() -> dict:
            if said:
                await stop.wait()
            return {"type": "lifespan"}

        async def send(message: dict) -> None:
            said.append(message["type"])

        lifespan = asyncio.ensure_future(asgi({"type": "lifespan"}, receive, send))
        while not said:
            await asyncio.sleep(0)
        for _ in range(2):
            await asgi(scope_of(), Client().receive, (client := Client()).send)
            assert client.status == 200
        assert events == ["opened"]
        stop.set()
        await lifespan
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    asyncio.run(run())
    assert events == ["opened", "closed"]


def test_a_websocket_is_closed(runtime) -> None:
    """Where a server hands one over."""
    client = Client(b"")
    sent = list[dict]()

    async def send(message: dict) -> None:
        sent.append(message)

    asgi = Asgi(lambda: contextlib.nullcontext(create_app(runtime)), threads=1, by_loop=True)
    asyncio.run(asgi({"type": "websocket"}, client.receive, send))
    assert sent == [{"type": "websocket.close", "code": 1000}]
