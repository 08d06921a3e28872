"""After a deletion nothing comes back: no job, no request that is sent again, no number that meant something else before."""

import contextlib
import threading
import time
import weakref

import numpy as np
import pytest
from jobs import Slow, body, ended

from isoform.server.app import create_app
from isoform.server.capacity.memory import Memory
from isoform.server.store.store import Store

pytestmark = pytest.mark.trust
ALICE = "/v1/models/plain/signatures/alice"
X = np.zeros((3, 1, 32, 32), dtype=np.float32)


@pytest.fixture
def slow(monkeypatch, runtime) -> Slow:
    """Learning that is let go by the test."""
    found = Slow(monkeypatch, runtime)
    yield found
    found.go.set()


def file_of(runtime, name):
    """A signature file that tells names apart."""
    return runtime.signature("plain").replace(created=name).encode()


def started(client, slow, user="alice"):
    """A job that is running."""
    job = client.post(f"/v1/models/plain/signatures/{user}/adapt", json=body(X)).json
    assert slow.begun.wait(20)
    return job


def interrupted(monkeypatch, store):
    """Let another process delete alice just before the next write for her: behind everything that the request read before."""
    original, once = Store.writing, threading.Event()

    @contextlib.contextmanager
    def writing(self, *whose):
        if self is store and whose and not once.is_set():
            once.set()
            with Store(url_of(store)) as other:
                assert other.delete("plain", "alice", actor="another")
        with original(self, *whose) as connection:
            yield connection

    monkeypatch.setattr(Store, "writing", writing)


def url_of(store) -> str:
    """Where a store is."""
    with store.reading() as connection:
        return connection.engine.url.render_as_string(hide_password=False)


def test_what_was_learned_from_a_deleted_user_is_not_appended_to_the_next(keeper, runtime, slow) -> None:
    """PUT, adapt, DELETE, PUT: the job is cancelled, and the new user's history has nothing but what was put."""
    keeper.put(ALICE, data=file_of(runtime, "A"))
    job = started(keeper, slow)
    assert keeper.delete(ALICE).status_code == 204
    assert keeper.get(f"/v1/jobs/{job['id']}").json["state"] == "cancelled"
    made = keeper.put(ALICE, data=file_of(runtime, "B"))
    assert (made.status_code, made.json["revision"], made.json["parent"]) == (201, 2, None)
    slow.go.set()
    after = ended(keeper, keeper.post("/v1/models/plain/signatures/bob/adapt", json=body(X)).json)
    assert after["state"] == "done"  # the one behind it had its turn, so it is over
    assert keeper.get(f"{ALICE}/revisions").json["revisions"] == [made.json]
    assert keeper.get(f"/v1/jobs/{job['id']}").json["state"] == "cancelled"


@pytest.mark.parametrize("loaded", [True, False])
def test_a_first_job_does_not_bring_a_deleted_user_back(loaded, keeper, slow) -> None:
    """A user who has but a job is deleted with 204, and stays away, also while the task is unloaded; then there is nothing to delete."""
    job = started(keeper, slow)
    if not loaded:
        assert keeper.post("/v2/repository/models/plain/unload").status_code == 200
    assert [found["id"] for found in keeper.get(f"{ALICE}/jobs").json["jobs"]] == [job["id"]]
    assert keeper.delete(ALICE).status_code == 204
    assert keeper.delete(ALICE.replace("plain", "klingon")).status_code == 404
    assert keeper.post("/v2/repository/models/plain/load").status_code == 200
    slow.go.set()
    ended(keeper, keeper.post("/v1/models/plain/signatures/bob/adapt", json=body(X)).json)
    assert keeper.get(f"/v1/jobs/{job['id']}").json["state"] == "cancelled"
    assert keeper.get(ALICE).status_code == 404
    assert keeper.delete(ALICE).status_code == 404


def test_a_job_of_before_a_rollback_or_a_put_fails(keeper, runtime, slow) -> None:
    """Whatever made the newest revision meanwhile, with the same bytes or not: the job does not write over it."""
    keeper.put(ALICE, data=file_of(runtime, "A"))
    job = started(keeper, slow)
    assert keeper.post(f"{ALICE}/rollback", json={"revision": 1}).json["revision"] == 2  # the digest that it began from
    slow.go.set()
    job = ended(keeper, job)
    assert (job["state"], "has changed since revision 1" in job["message"]) == ("failed", True)
    assert keeper.get(ALICE).json["revision"] == 2


def test_numbers_never_mean_two_things(keeper, runtime) -> None:
    """The same bytes put again after a deletion have another number and ETag; what was decided on the old ones is refused."""
    first = keeper.put(ALICE, data=file_of(runtime, "A"))
    keeper.delete(ALICE)
    second = keeper.put(ALICE, data=file_of(runtime, "A"))
    assert (second.status_code, second.json["revision"]) == (201, 2)
    assert second.headers["ETag"] != first.headers["ETag"]
    for method, path, content in (
        (keeper.put, ALICE, {"data": file_of(runtime, "C")}), (keeper.delete, ALICE, {}),
        (keeper.post, f"{ALICE}/rollback", {"json": {"revision": 2}}), (keeper.post, f"{ALICE}/adapt", {"json": body(X)}),
    ):  # fmt: skip
        assert method(path, headers={"If-Match": first.headers["ETag"]}, **content).status_code == 412
    assert keeper.post(f"{ALICE}/rollback", json={"revision": 1}).status_code == 404
    assert keeper.get(f"{ALICE}/file?revision=1").status_code == 404
    assert keeper.delete(ALICE).status_code == 204
    assert keeper.put(ALICE, data=file_of(runtime, "A")).json["revision"] == 3


@pytest.mark.parametrize("verb", ["put", "rollback"])
def test_a_request_that_is_sent_again_does_not_bring_a_user_back(verb, keeper, runtime) -> None:
    """With an idempotency key whose revision is deleted: 409, whether the user is away or new."""
    keeper.put(ALICE, data=file_of(runtime, "A"))

    def send():
        headers = {"Idempotency-Key": "k"}
        if verb == "put":
            return keeper.put(ALICE, data=file_of(runtime, "B"), headers=headers)
        return keeper.post(f"{ALICE}/rollback", json={"revision": 1}, headers=headers)

    assert send().json["revision"] == 2
    keeper.delete(ALICE)
    again = send()
    assert again.status_code == 409
    assert "was deleted" in again.json["error"]
    assert keeper.get(ALICE).status_code == 404
    new = keeper.put(ALICE, data=file_of(runtime, "N")).json
    assert send().status_code == 409
    assert keeper.get(ALICE).json == new


@pytest.mark.parametrize(("verb", "status"), [("rollback", 404), ("adapt", 409), ("adapt, if it matches", 412)])
def test_a_deletion_between_reading_and_writing(verb, status, keeper, runtime, store, monkeypatch) -> None:
    """A request that read a user's revision and writes after the deletion writes nothing, and says so."""
    tag = keeper.put(ALICE, data=file_of(runtime, "A")).headers["ETag"]
    interrupted(monkeypatch, store)
    if verb == "rollback":
        answer = keeper.post(f"{ALICE}/rollback", json={"revision": 1})
    else:
        answer = keeper.post(f"{ALICE}/adapt", json=body(X), headers={"If-Match": tag} if "if" in verb else {})
    assert answer.status_code == status
    assert keeper.get(ALICE).status_code == 404
    assert keeper.get(f"{ALICE}/jobs").json == {"jobs": []}


@pytest.mark.parametrize("where", ["this process", "another process"])
def test_samples_of_a_deleted_user_are_dropped(where, keeper, runtime, store, slow, monkeypatch) -> None:
    """A job that waits behind somebody's long one lets go of its samples soon after its user's deletion, and frees its place."""
    held = list[weakref.ref]()
    keep = Memory.keep

    def watched(self, samples, caller) -> None:
        held.append(weakref.ref(samples))
        keep(self, samples, caller)

    monkeypatch.setattr(Memory, "keep", watched)
    monkeypatch.setattr("isoform.server.service.worker.ALIVE_SECONDS", 0.2, raising=False)
    started(keeper, slow, "bob")
    job = keeper.post(f"{ALICE}/adapt", json=body(X)).json
    other = keeper if where == "this process" else create_app(runtime, store=store).test_client()
    assert held[1]() is not None
    assert other.delete(ALICE).status_code == 204
    until = time.monotonic() + 10
    while held[1]() is not None and time.monotonic() < until:
        time.sleep(0.02)
    assert held[1]() is None
    assert keeper.get(f"/v1/jobs/{job['id']}").json["state"] == "cancelled"


def test_a_finished_job_says_how_far_it_went(keeper, runtime, slow) -> None:
    """Done: its last step, of as many as it took, none if it took none; cancelled or failed: its last step, of as many as it might have taken."""

    def stepped(user: str) -> str:
        """The path of a job that has taken steps."""
        slow.go.clear()
        slow.begun.clear()
        job, until = started(keeper, slow, user), time.monotonic() + 20
        while job["step"] == 0 and time.monotonic() < until:
            time.sleep(0.05)
            job = keeper.get(f"/v1/jobs/{job['id']}").json
        return f"/v1/jobs/{job['id']}"

    done = stepped("alice")
    slow.go.set()
    job = ended(keeper, keeper.get(done).json)
    assert (job["state"], 0 < job["step"] == job["steps"]) == ("done", True)
    job = keeper.post(f"{ALICE}/adapt", json=body(X), headers={"Prefer": "wait=20"}).json  # let go at once
    assert (job["state"], job["step"], job["steps"]) == ("done", 0, 0)
    cancelled = keeper.delete(stepped("bob")).json
    assert (cancelled["state"], 0 < cancelled["step"] < cancelled["steps"] == 1200) == ("cancelled", True)
    slow.go.set()
    failing = stepped("carol")
    keeper.put("/v1/models/plain/signatures/carol", data=file_of(runtime, "C"))
    slow.go.set()
    failed = ended(keeper, keeper.get(failing).json)
    assert (failed["state"], 0 < failed["step"] < failed["steps"] == 1200) == ("failed", True)
