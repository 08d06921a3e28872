"""What is known of a request stands in one object, of that request alone; the WSGI environment has it, and nothing else of ours."""

import ast
import gc
import io
import threading
import weakref

import pytest
from flask import Flask
from support import ROOT
from werkzeug.test import EnvironBuilder

from isoform.server.access.keys import Keys
from isoform.server.app import create_app
from isoform.server.exchange.caller import NOBODY, Caller
from isoform.server.exchange.record import Record, attach_record, get_record

INFER, ALICE = "/v2/models/plain/infer", "/v1/models/plain/signatures/alice"
OURS = "isoform.record"


def asked(app: Flask, path: str, body: bytes = b"", **more) -> tuple[int, set[str], Record]:
    """Status, the environment's keys that are not WSGI's, and the record, of a request straight to an application."""
    environ = EnvironBuilder(path, data=body, **more).get_environ()
    before, statuses = set(environ), list[str]()
    b"".join(app(environ, lambda status, _: statuses.append(status)))
    added = {name for name in set(environ) - before if not name.startswith(("werkzeug.", "wsgi."))}
    return int(statuses[0][:3]), added, environ[OURS]


def test_one_key_of_ours_and_all_in_it(runtime, store, samples) -> None:
    """A prediction, a route of Flask's, a refusal by either, and a path that is no route's: one key, and what became of the request."""
    keys = Keys(store)
    secret = keys.add("phone", ["write:alice"])
    app, headers = create_app(runtime, store=store, keys=keys), {"Authorization": f"Bearer {secret}"}
    signature, numbers = runtime.signature("plain").keep("mixture"), samples[0][:1].astype("<f4").tobytes()
    head = {"Inference-Header-Content-Length": "0", "Isoform-Signature": "alice"}
    for path, body, more, expected in (
        (ALICE, signature.encode(), {"method": "PUT"}, (201, "/v1/models/<task>/signatures/<user>", "alice", None)),
        (INFER, numbers, {"method": "POST", "headers": head}, (200, "/v2/models/<task>/infer", "alice", None)),
        (INFER, b"no", {"method": "POST"}, (400, "/v2/models/<task>/infer", None, "Input")),
        ("/v1/events", b"", {}, (403, "/v1/events", None, "Forbidden")),
        ("/nothing", b"", {}, (404, "none", None, "NotFound")),
    ):
        status, added, record = asked(app, path, body, **{**more, "headers": {**more.get("headers", {}), **headers}})
        assert (status, added) == (expected[0], {OURS}), path
        assert (record.status, record.route, record.signature, record.error) == expected, path
        assert (record.method, record.caller.name) == (more.get("method", "GET"), "phone"), path
        assert record.model == (("plain", "1") if path == INFER else None)
        if expected[2]:
            assert (record.task, record.revision, record.digest) == ("plain", 1, signature.digest)


def test_no_other_key_is_written_anywhere() -> None:
    """In the server's source, what is stored in an environment has a name of WSGI's, or is the record."""
    allowed, found = {"wsgi.input", "CONTENT_LENGTH", "REMOTE_ADDR", "REMOTE_PORT"}, set[str]()
    for path in sorted((ROOT / "server").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)):
                continue
            owner, key = ast.unparse(node.value), ast.unparse(node.slice).strip("'")
            if owner in ("environ", "request.environ") and key not in allowed:
                found.add(f"{path.relative_to(ROOT).as_posix()}: {key}")
    assert found == {"server/exchange/record.py: _KEY", "server/http/environ.py: key"}  # the second: headers


def test_who_was_not_judged_may_do_nothing() -> None:
    """A record begins with a caller who has no rights, so that a route that is reached too early refuses."""
    caller = Record("r", "GET", 0.0).caller
    assert caller is NOBODY
    rights = caller.is_admin, caller.may_write("alice"), caller.may_predict(None), caller.may_read_metrics
    assert not any(rights)


def test_a_request_that_passed_no_front_has_no_record() -> None:
    """An error of the programmer's, and loud: nobody's record is taken for it."""
    app = Flask("other")
    with app.test_request_context(), pytest.raises(KeyError):
        get_record()
    environ, record = EnvironBuilder().get_environ(), Record("r", "GET", 0.0)
    attach_record(environ, record)
    with app.request_context(environ):
        assert get_record() is record


def test_requests_at_once_have_a_record_each(runtime, monkeypatch) -> None:
    """Two at the same time, each in its thread: neither sees the other's caller."""
    app, both, seen = create_app(runtime), threading.Barrier(2, timeout=20), dict[str, str]()

    @app.get("/who/<name>")
    def who(name: str) -> str:
        get_record().caller = Caller(name, frozenset())
        both.wait()
        seen[name] = get_record().caller.name
        return name

    monkeypatch.setattr("isoform.server.access.guard.check_local", lambda _: None)
    threads = [threading.Thread(target=app.test_client().get, args=(f"/who/{name}",)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert seen == {"a": "a", "b": "b"}


class Body(io.BytesIO):
    """A body that can be watched."""


def test_a_request_is_freed_as_soon_as_it_is_answered(runtime, samples) -> None:
    """No circle through the record keeps a prediction's body until Python looks for circles."""
    app, body = create_app(runtime), Body(samples[0][:1].astype("<f4").tobytes())
    environ = EnvironBuilder(INFER, method="POST", headers={"Inference-Header-Content-Length": "0"}).get_environ()
    environ |= {"wsgi.input": body, "CONTENT_LENGTH": str(len(body.getvalue()))}
    watched, statuses = weakref.ref(body), list[str]()
    gc.disable()
    try:
        b"".join(app(environ, lambda status, _: statuses.append(status)))
        del environ, body
        assert (statuses, watched()) == (["200 OK"], None)
    finally:
        gc.enable()
