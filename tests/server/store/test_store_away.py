"""A store that is away, hangs, is full or is damaged: what needs it is 503 in one line, what does not goes on."""

import gc
import importlib
import itertools
import os
import random
import resource
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from jobs import Slow, ended
from postgres import POSTGRES, server
from serving import ask, serving

from isoform.server.access.keys import Keys
from isoform.server.app import create_app
from isoform.server.service.unloaded import Unloaded
from isoform.server.store.breaker import Breaker
from isoform.server.store.ledger import Ledger
from isoform.server.store.store import Store

pytestmark = pytest.mark.trust
BODY = {"inputs": [{"name": "image", "shape": [1, 1, 32, 32], "datatype": "FP32", "data": [0.5] * 1024}]}
INFER, USER = "/v2/models/plain/infer", "/v1/models/plain/signatures/alice"
SERVED = ("/v2/health/live", "/v2", "/v2/models/plain", "/v2/models/plain/ready", "/v1/models/plain/templates", "/", "/metrics", "/openapi.json")  # fmt: skip


@pytest.fixture
def file(runtime) -> bytes:
    """A signature file of the task plain."""
    return runtime.signature("plain").encode()


def named(client, user="alice", **options):
    """The answer to a prediction for a user."""
    return client.post(INFER, json={**BODY, "parameters": {"signature": user}}, **options)


def check_refused(answer) -> None:
    """503, one line, and when to come again."""
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), answer.data
    assert answer.json == {"error": "the signature store does not answer; try again"}


def check_goes_on(client, **options) -> None:
    """What needs nothing of the store is answered, and soon."""
    began = time.monotonic()
    for path in SERVED:
        assert client.get(path, **options).status_code == 200, path
    assert client.post(INFER, json=BODY, **options).status_code == 200
    assert client.post("/v2/repository/index", **options).status_code == 200
    assert time.monotonic() - began < 3


def check_all_refused(client, file, **options) -> None:
    """Every route that needs the store says so."""
    assert client.get("/v2/health/ready").status_code == 503
    check_refused(named(client, **options))
    for method, path, data in (
        ("PUT", USER, file), ("GET", USER, None), ("GET", f"{USER}/file", None), ("GET", f"{USER}/revisions", None),
        ("POST", f"{USER}/rollback", b'{"revision": 1}'), ("DELETE", USER, None), ("GET", f"{USER}/jobs", None),
        ("GET", "/v1/models/plain/signatures", None), ("GET", f"/v1/jobs/{'0' * 32}", None), ("DELETE", f"/v1/jobs/{'0' * 32}", None),
        ("GET", "/v1/events", None), ("POST", "/v2/repository/models/edges/unload", None), ("GET", "/v1/models/plain/templates?signature=alice", None),
    ):  # fmt: skip
        check_refused(
            client.open(
                path, method=method, data=data, content_type="application/json" if method == "POST" else None, **options
            )
        )


@pytest.fixture(scope="module")
def database():
    """A PostgreSQL server that may be stopped."""
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed; Debian's package is 'postgresql'")
    with server() as found:
        yield found


@pytest.mark.xdist_group("store")
def test_postgresql_is_away(database, runtime, file, caplog) -> None:
    """While it is stopped every route that needs it is 503; the others, and keys that were good just now, go on; afterwards all is as before."""
    with Store(database.url) as store:
        keys = Keys(store)
        known, new = keys.add("known", ["admin"]), keys.add("new", ["admin"])
        app = create_app(runtime, store=store, keys=keys)
        client, options = app.test_client(), {"headers": {"Authorization": f"Bearer {known}"}}
        wrong = {"headers": {"Authorization": f"Bearer {known[:-1]}{'ab'[known[-1] == 'a']}"}}
        assert client.put(USER, data=file, **options).status_code == 201
        database.stop()
        try:
            time.sleep(2.1)  # what is known of keys and tasks is asked for again
            check_goes_on(client, **options)
            check_all_refused(client, file, **options)
            check_refused(client.post(INFER, json=BODY, headers={"Authorization": f"Bearer {new}"}))
            assert client.post(INFER, json=BODY, **wrong).status_code == 401
            assert client.post(INFER, json=BODY).status_code == 401
        finally:
            database.start()
        assert named(client, **options).json["parameters"]["revision"] == 1
        assert client.get("/v2/health/ready").status_code == 200
        assert client.put(USER, data=runtime.signature("plain").keep("mixture").encode(), **options).status_code == 200
    assert "Traceback" not in caplog.text


@pytest.mark.xdist_group("store")
def test_postgresql_hangs(database, runtime, file, caplog) -> None:
    """While it says nothing, base predictions and health are answered soon, and soon so is everything else; afterwards all is as before."""
    with Store(database.url) as store:
        client = create_app(runtime, store=store).test_client()
        client.put(USER, data=file)
        with database.held():
            time.sleep(1.1)
            check_goes_on(client)
            began = time.monotonic()
            assert client.get("/v2/health/ready").status_code == 503
            assert time.monotonic() - began < 3
            check_refused(named(client))
            assert time.monotonic() - began < 12
            began = time.monotonic()
            check_all_refused(client, file)
            check_goes_on(client)
            assert time.monotonic() - began < 3
        until = time.monotonic() + 15
        while client.get("/v2/health/ready").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert named(client).status_code == 200
    assert "Traceback" not in caplog.text


@pytest.mark.xdist_group("store")
def test_live_does_not_wait_for_ready(database, compiled) -> None:
    """While PostgreSQL hangs: who asks whether the server is ready at the same time hears of one look at it, and it lives all the while."""
    with serving(compiled, "--store", database.url, "--open") as server, ThreadPoolExecutor(4) as pool, database.held():
        began = time.monotonic()
        readies = [pool.submit(ask, server, "GET", "/v2/health/ready") for _ in range(4)]
        while not all(ready.done() for ready in readies):
            before = time.monotonic()
            assert ask(server, "GET", "/v2/health/live")[0] == 200
            assert time.monotonic() - before < 2  # the machine may be busy
            time.sleep(0.05)
        assert {ready.result()[0] for ready in readies} == {503}
        assert time.monotonic() - began < 5


def test_no_descriptors_are_left(runtime, tmp_path, file) -> None:
    """A process that may open no more files: users and metrics are 503, base predictions go on; once it may again, users are answered."""
    importlib.import_module(
        "isoform.server.telemetry.metric_files"
    )  # a server that asks for metrics now and then has it
    with Store(tmp_path / "s.db") as store:
        create_app(runtime, store=store).test_client().put(USER, data=file)
    with Store(tmp_path / "s.db", create=False) as store:
        client = create_app(runtime, store=store).test_client()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        gc.collect()  # a file that an earlier test let go of and that is closed later would leave room for another
        free = os.open("/dev/null", os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            refused, base = named(client), client.post(INFER, json=BODY)
            with pytest.MonkeyPatch.context() as patch:  # as with several processes
                patch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
                page = client.get("/metrics")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        check_refused(refused)
        assert base.status_code == 200
        assert (page.status_code, page.headers.get("Retry-After"), "too many open files" in page.text) == (
            503,
            "1",
            True,
        )
        assert named(client).status_code == 200


def test_the_disk_is_full(runtime, store, file) -> None:
    """A write for which there is no room is 503 and leaves nothing; reading goes on; with room again it is taken."""
    client = create_app(runtime, store=store).test_client()
    assert client.put(USER, data=file).status_code == 201
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        refused, read = client.put(USER.replace("alice", "bob"), data=file), named(client)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_refused(refused)
    assert read.status_code == 200
    assert named(client, "bob").status_code == 404
    assert client.put(USER.replace("alice", "bob"), data=file).status_code == 201


def test_another_process_has_the_lock(runtime, store, file, monkeypatch) -> None:
    """While another process does not let anybody write, writes are 503 and reading goes on."""
    monkeypatch.setattr("isoform.server.store.sqlite.WRITE_SECONDS", 0.2)
    client = create_app(runtime, store=store).test_client()
    store._writer.dispose()  # its first connection still waits longer
    with sqlite3.connect(store._file._path) as other:
        other.execute("BEGIN IMMEDIATE")
        check_refused(client.put(USER, data=file))
        assert named(client).status_code == 404
    other.close()
    assert client.put(USER, data=file).status_code == 201


def test_a_stored_signature_is_damaged(runtime, store, file) -> None:
    """What the store has of a user is damaged: 503, not the user's own fault; others are answered."""
    client = create_app(runtime, store=store).test_client()
    for user in ("alice", "bob"):
        client.put(USER.replace("alice", user), data=file)
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE isoform_revisions SET data = x'00112233' WHERE \"user\" = 'alice'")
    client = create_app(runtime, store=store).test_client()  # which has nothing of it in memory
    check_refused(named(client))
    assert named(client, "bob").status_code == 200


def test_a_damaged_database_is_never_500(runtime, tmp_path, file) -> None:
    """Bytes of the database are overwritten at random: every answer is right, says that there is nothing, or is 503 in one line."""
    with Store(tmp_path / "s.db") as store:
        client = create_app(runtime, store=store).test_client()
        for user in ("alice", "bob", "carol"):
            client.put(USER.replace("alice", user), data=file)
        client.delete(USER.replace("alice", "carol"))
        base = client.post(INFER, json=BODY).json  # alice's bytes are the base's
    whole, rng, refused, right = (tmp_path / "s.db").read_bytes(), np.random.default_rng(0), 0, 0
    for turn, width in itertools.product(range(3), (1, 64, 4096)):
        harmed, dice = bytearray(whole), random.Random(turn * 10000 + width)
        for _ in range(16):
            start = dice.randrange(100, len(harmed) - width)
            harmed[start : start + width] = rng.bytes(width)
        path = tmp_path / f"{turn}-{width}.db"
        path.write_bytes(harmed)
        with Store(path, create=False) as store:
            client = create_app(runtime, store=store).test_client()
            for path in (
                USER,
                f"{USER}/file",
                f"{USER}/revisions",
                f"{USER}/jobs",
                "/v1/models/plain/signatures",
                "/v1/events",
            ):
                answer = client.get(path)
                assert answer.status_code in (200, 404, 503), (path, answer.data)
                refused += answer.status_code == 503
                if path.endswith("/file") and answer.status_code == 200:
                    assert answer.data == file
            answer = named(client)
            assert answer.status_code in (200, 404, 503)
            if answer.status_code == 200:
                right += 1
                assert answer.json["parameters"]["digest"] == base["parameters"]["digest"]
                assert answer.json["outputs"] == base["outputs"]
            assert client.put(USER, data=file).status_code in (200, 201, 503)
            assert client.post(INFER, json=BODY).status_code == 200
    assert refused
    assert right


def test_nobody_waits_for_what_another_asks(runtime, store, monkeypatch) -> None:
    """While one request waits for the store to say which tasks are unloaded, base predictions go on by what was known last."""
    app, asked, go = create_app(runtime, store=store), threading.Event(), threading.Event()

    def hangs() -> set[str]:
        asked.set()
        go.wait(20)
        return {"edges"}

    monkeypatch.setattr("isoform.server.service.availability.PATIENCE_SECONDS", 20)
    monkeypatch.setattr(store, "unloaded", hangs)
    first = threading.Thread(target=lambda: app.test_client().get("/v2/models/plain/ready"))
    first.start()
    try:
        assert asked.wait(20)
        assert app.test_client().post(INFER, json=BODY).status_code == 200
        assert not go.is_set()
        assert first.is_alive()
    finally:
        go.set()
        first.join()
    assert app.test_client().get("/v2/models/edges/ready").status_code == 404


def test_processes_that_unload_other_tasks_at_once(runtime, store) -> None:
    """Each says of its own task only, so that a process that starts while the store is away refuses what any of them unloaded."""
    known = Unloaded(runtime.tasks)
    one, two = (create_app(runtime, store=store, unloaded=known).test_client() for _ in range(2))
    for client in (one, two):
        assert client.get("/v2/models/plain/ready").status_code == 200  # what each knows is fresh, and soon out of date
    assert one.post("/v2/repository/models/edges/unload").status_code == 200
    assert two.post("/v2/repository/models/plain/unload").status_code == 200
    assert known.get() == {"edges", "plain"}
    assert two.post("/v2/repository/models/edges/load").status_code == 200
    assert known.get() == {"plain"}


def test_no_threads_are_left(runtime, store, file, monkeypatch) -> None:
    """A process that may start no more threads: what needs one is 503, base predictions go on; once it may again, all is as before."""
    store._breaker.close()  # its watcher's thread is there already
    store._breaker = Breaker(store._probe, store._cut)
    client = create_app(runtime, store=store).test_client()

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        patch.setattr("isoform.server.store.breaker.SLOW_SECONDS", 0)
        assert client.put(USER, data=file).status_code == 201
        assert client.get("/v2/health/ready").status_code == 503
        assert client.post(INFER, json=BODY).status_code == 200
        learn = client.post(f"{USER}/adapt", json=BODY)
        assert (learn.status_code, learn.headers["Retry-After"]) == (503, "1")
        assert "cannot start a thread for jobs" in learn.json["error"]
        store._breaker._suspect()  # as its watcher would, if nothing had come for long
    assert client.get("/v2/health/ready").status_code == named(client).status_code == 200
    assert client.post(f"{USER}/adapt", json=BODY, headers={"Prefer": "wait=20"}).json["state"] == "done"


def test_threads_outlive_what_nobody_expected(runtime, store, monkeypatch) -> None:
    """A failure of no known kind where the store is asked in the background: it is asked again, and jobs have their turn."""
    failures, original = {"tell": 2, "complete": 2, "fail": 1}, {}

    def failing(name):
        def call(self, *arguments, **options):
            if failures[name]:
                failures[name] -= 1
                raise ValueError(name)
            return original[name](self, *arguments, **options)

        return call

    for name in failures:
        original[name] = getattr(Ledger, name)
        monkeypatch.setattr(Ledger, name, failing(name))
    slow = Slow(monkeypatch, runtime)
    client = create_app(runtime, store=store).test_client()
    places = [client.post(f"{USER}{number}/adapt", json=BODY).headers["Location"] for number in range(3)]
    until = time.monotonic() + 20
    while client.get(places[0]).json["state"] != "running" and time.monotonic() < until:
        time.sleep(0.05)
    slow.go.set()
    found = ended(client, client.get(places[2]).json)
    assert [client.get(place).json["state"] for place in places[1:]] == ["failed", "done"]
    assert (found["state"], failures) == ("done", dict.fromkeys(failures, 0))

    def odd() -> None:
        raise ValueError("odd")

    breaker = Breaker(odd, odd)
    breaker._suspected = time.monotonic() - 60
    breaker._prober()
    breaker.end(breaker.begin())  # the circuit is closed again
    breaker.close()
