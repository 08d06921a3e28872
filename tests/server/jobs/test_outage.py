"""A database that is away for a while: jobs ride it out, and none is called lost that is not."""

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pytest
from jobs import Slow, body, ended
from postgres import stopped

from isoform.runtime.errors import ConflictError, StoreError
from isoform.server.app import create_app
from isoform.server.service.service import service_of
from isoform.server.store import ledger
from isoform.server.store.ledger import Ledger
from isoform.server.store.store import ANY, Store

pytestmark = [pytest.mark.trust, pytest.mark.xdist_group("outage")]
ALICE = "/v1/models/plain/signatures/alice"
X = np.zeros((3, 1, 32, 32), dtype=np.float32)


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request, tmp_path) -> Iterator[Store]:
    """A store of each kind, with nothing of the task t."""
    url = f"sqlite:///{tmp_path / 's.db'}" if request.param == "sqlite" else request.getfixturevalue("postgresql")
    with Store(url) as store:
        store.delete("t", "a", actor="")
        yield store


@contextlib.contextmanager
def serving(url, runtime):
    """A client of an application over a store, and the store; closed in the order in which a server closes them."""
    with Store(url) as store:
        app = create_app(runtime, store=store)
        try:
            yield app.test_client(), store
        finally:
            service_of(app).close(seconds=10)


def learned(store, job, begun, text="x") -> None:
    """End a job as a worker does."""
    Ledger(store).complete(
        job, begun=begun, digest=text.encode().hex().ljust(64, "0"), data=text.encode(), message="well", steps=7
    )


@pytest.mark.parametrize("when", ["while it learns", "as it ends"])
def test_a_job_rides_it_out(when, postgresql, runtime, monkeypatch) -> None:
    """PostgreSQL is stopped for two seconds while a job runs or as it ends: the job is done, once, and was never anything but running."""
    slow = Slow(monkeypatch, runtime)
    with serving(postgresql, runtime) as (client, store):
        user = when[:2]
        place = f"/v1/models/plain/signatures/{user}"
        job = client.post(f"{place}/adapt", json=body(X)).json
        assert slow.begun.wait(20)
        with stopped(postgresql):
            if when == "as it ends":
                slow.go.set()
            time.sleep(2)
        seen = client.get(f"/v1/jobs/{job['id']}").json
        assert seen["state"] in ("queued", "running") or (when == "as it ends" and seen["state"] == "done")
        slow.go.set()
        job = ended(client, job, 30)
        assert (job["state"], job["revision"]) == ("done", 1)
        assert len(store.history("plain", user)) == 1


def test_who_waits_for_a_job_is_told_of_it(postgresql, runtime, monkeypatch) -> None:
    """``Prefer: wait`` while the database goes away: 202 and the job's place, because it goes on."""
    slow = Slow(monkeypatch, runtime)
    original = Ledger.find

    def find(self, identity):
        slow.go.set()
        raise StoreError("away")

    with serving(postgresql, runtime) as (client, _):
        monkeypatch.setattr(Ledger, "find", find)
        answer = client.post(f"{ALICE}/adapt", json=body(X), headers={"Prefer": "wait=9"})
        monkeypatch.setattr(Ledger, "find", original)
        assert answer.status_code == 202
        assert answer.headers["Location"] == f"/v1/jobs/{answer.json['id']}"
        assert ended(client, answer.json)["state"] == "done"


def test_an_end_whose_answer_is_lost_is_not_written_twice(keeper, store, runtime, monkeypatch) -> None:
    """The commit reached the database and its answer did not come back: the next try finds it done."""
    slow, original, lost = Slow(monkeypatch, runtime), Store.writing, list[bool]()

    @contextlib.contextmanager
    def writing(self, *whose):
        with original(self, *whose) as connection:
            yield connection
        if whose == ("plain", "alice") and slow.go.is_set() and not lost:
            lost.append(True)
            raise StoreError("the connection broke")

    job = keeper.post(f"{ALICE}/adapt", json=body(X)).json
    assert slow.begun.wait(20)
    monkeypatch.setattr(Store, "writing", writing)
    slow.go.set()
    job = ended(keeper, job, 20)
    assert lost
    assert (job["state"], job["revision"]) == ("done", 1)
    time.sleep(0.3)  # for the try that must do nothing
    assert [revision.revision for revision in store.history("plain", "alice")] == [1]


def test_a_silent_job_is_doubted_first(either, monkeypatch) -> None:
    """A job that was silent while the database was away is open, and lost only if it stays silent; one that speaks again never was."""
    monkeypatch.setattr(ledger, "LOST_SECONDS", 0.4)
    jobs = Ledger(either)
    job = jobs.add("t", "a", action="adapt", actor="", expect=ANY)
    time.sleep(0.5)
    assert jobs.find(job.id).state == "queued"
    assert jobs.tell({job.id: (1, 9)}) == {job.id}
    time.sleep(0.25)
    assert jobs.find(job.id).state == "running"
    time.sleep(0.25)
    assert jobs.listed("t", "a")[0].state == "running"  # doubted anew, from now on
    time.sleep(0.25)
    assert jobs.find(job.id).state == "lost"
    assert "send it again" in jobs.find(job.id).message


def test_a_lost_job_stays_lost(either, monkeypatch) -> None:
    """Its process comes back after all: it hears of it, and what it learned is not written, because its user was told to send it again."""
    jobs = Ledger(either)
    job = jobs.add("t", "a", action="adapt", actor="", expect=0)
    monkeypatch.setattr(ledger, "LOST_SECONDS", -1)
    assert jobs.find(job.id).state == "lost"
    monkeypatch.undo()
    assert jobs.tell({job.id: (5, 9)}) == set()
    learned(either, job, (0, "0" * 64))
    assert jobs.find(job.id).state == "lost"
    assert either.newest("t", "a") is None


def test_clocks_of_machines_may_differ(postgresql, monkeypatch) -> None:
    """A replica whose clock is ten minutes late does not lose its jobs to the others."""
    with Store(postgresql) as store:
        true = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: true() - 600 * 10**9)
        job = Ledger(store).add("t", "late", action="adapt", actor="", expect=ANY)
        monkeypatch.undo()
        assert abs(job.created - time.time() * 1000) < 60_000
        for _ in range(2):
            assert Ledger(store).find(job.id).state == "queued"


def test_a_job_ends_where_it_began(either) -> None:
    """The newest revision's number and digest are those that it began from, or nothing is written; and twice is once."""
    jobs = Ledger(either)
    first, second = (text.encode().hex().ljust(64, "0") for text in ("one", "two"))
    made = either.append("t", "a", digest=first, data=b"one", action="put", actor="")
    job = jobs.add("t", "a", action="adapt", actor="", expect=made.revision)
    for begun in ((made.revision, second), (made.revision + 1, first), (0, first)):
        with pytest.raises(ConflictError, match="was expected"):
            learned(either, job, begun)
    assert jobs.find(job.id).state == "queued"
    for _ in range(2):
        learned(either, job, (made.revision, first))
    assert jobs.find(job.id).revision == made.revision + 1
    newest = either.newest("t", "a")
    assert (newest.revision, newest.parent, newest.action) == (made.revision + 1, first, "adapt")
    with pytest.raises(ConflictError, match="was expected"):
        jobs.add("t", "a", action="adapt", actor="", expect=made.revision)
