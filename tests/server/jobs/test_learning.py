"""Learning over HTTP: a user's drawings in, a better network out; jobs that can be watched, cancelled, and lost."""

import json
import time

import numpy as np
import pytest
from jobs import Slow, body, ended

from isoform.runtime.errors import InputError, IsoformError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.runtime import Runtime
from isoform.server.app import create_app
from isoform.server.store import ledger
from isoform.server.store.ledger import Ledger
from isoform.server.store.store import ANY
from isoform.train.data.domains import transform
from isoform.train.data.formats.digits import digits

ALICE = "/v1/models/plain/signatures/alice"


@pytest.fixture(scope="module")
def faded():
    """Faded digits, and their labels: 40 to learn from, 200 to see what it was good for."""
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(labels))[:240]
    x = transform(np.array(images[order]), domain="low_contrast")
    return x[:40], labels[order[:40]], x[40:], labels[order[40:]]


def right(client, x, labels, name):
    """Share of labels that a user's network finds."""
    answer = client.post(
        "/v2/models/plain/infer",
        json={**body(x), "parameters": {"signature": name} if name else {}, "outputs": [{"name": "label"}]},
    )
    return np.mean(
        [found == str(label) for found, label in zip(answer.json["outputs"][0]["data"], labels, strict=True)]
    )


def test_personalize_then_adapt_then_back(keeper, runtime, faded) -> None:
    """Forty drawings make a revision that is better; it is what the runtime makes of them; unlabelled ones make the next; both can be undone."""
    x, labels, unseen, truth = faded
    before = right(keeper, unseen, truth, None)
    answer = keeper.post(f"{ALICE}/personalize", json=body(x, labels))
    assert answer.status_code == 202
    assert answer.json["state"] in ("queued", "running")
    job = ended(keeper, answer.json)
    assert (job["state"], job["revision"]) == ("done", 1)
    assert keeper.get(answer.headers["Location"]).json == job
    assert right(keeper, unseen, truth, "alice") > before + 0.1  # a tiny network, trained for 40 steps
    stored = Signature.decode(keeper.get(f"{ALICE}/file").data)
    assert stored.parent == runtime.signature("plain").digest
    assert keeper.get(ALICE).json["action"] == "personalize"
    adapted = keeper.post(f"{ALICE}/adapt", json=body(unseen), headers={"Prefer": "respond-async, wait=60"})
    assert adapted.status_code == 200
    assert (adapted.json["state"], adapted.json["revision"], adapted.json["action"]) == ("done", 2, "adapt")
    assert keeper.get(ALICE).json["parent"] == stored.digest
    assert right(keeper, unseen, truth, "alice") > before + 0.1
    keeper.post(f"{ALICE}/rollback", json={"revision": 1})
    assert keeper.get(ALICE).json["digest"] == stored.digest
    assert [j["action"] for j in keeper.get(f"{ALICE}/jobs").json["jobs"]] == ["adapt", "personalize"]
    assert keeper.get("/v1/models/plain/signatures/bob/jobs").json == {"jobs": []}


def test_binary_samples_and_labels(keeper, faded) -> None:
    """Numbers behind the JSON, labels as indices or texts: the same signature."""
    x, labels, _, _ = faded
    image, digests = np.ascontiguousarray(x, "<f4").tobytes(), []
    texts = b"".join(len(t).to_bytes(4, "little") + t.encode() for t in map(str, labels))
    for name, datatype, data in (("a", "INT64", np.asarray(labels, "<i8").tobytes()), ("b", "BYTES", texts)):
        tensors = [
            {
                "name": "image",
                "shape": list(x.shape),
                "datatype": "FP32",
                "parameters": {"binary_data_size": len(image)},
            },
            {
                "name": "label",
                "shape": [len(x), 1],
                "datatype": datatype,
                "parameters": {"binary_data_size": len(data)},
            },
        ]
        head = json.dumps({"inputs": tensors}).encode()
        answer = keeper.post(
            f"/v1/models/plain/signatures/{name}/personalize", data=head + image + data,
            headers={"Inference-Header-Content-Length": str(len(head)), "Prefer": "wait=60", "Content-Type": "application/octet-stream"},
        )  # fmt: skip
        assert (answer.json["state"], answer.json["revision"]) == ("done", 1)
        digests.append(keeper.get(f"/v1/models/plain/signatures/{name}").json["digest"])
    assert digests[0] == digests[1]


@pytest.mark.trust
def test_a_user_whose_classes_are_numbers_from_one(runtime, keeper) -> None:
    """Over HTTP and in the API: whole numbers are refused with the way out, which then works: names, as texts."""
    base = runtime.signature("plain")
    mine = base.replace(labels=tuple(map(str, range(1, 11))))
    path = "/v1/models/plain/signatures/alice"
    assert keeper.put(path, data=mine.encode()).status_code == 201
    x, labels = digits()
    image = {"name": "image", "shape": [20, *x.shape[1:]], "datatype": "FP32", "data": x[:20].ravel().tolist()}

    def post(datatype, data):
        label = {"name": "label", "shape": [20], "datatype": datatype, "data": data}
        return keeper.post(
            f"{path}/personalize?parts=head", json={"inputs": [image, label]}, headers={"Prefer": "wait=60"}
        )

    refused = post("INT64", labels[:20].tolist())
    assert refused.status_code == 400
    assert "may be the class" in refused.text
    assert post("BYTES", [str(label + 1) for label in labels[:20]]).json["state"] == "done"
    with pytest.raises(InputError, match="may be the class"):
        runtime.personalize(x[:20], labels[:20], mine)


def test_nothing_better_is_no_revision(keeper, runtime, monkeypatch, faded) -> None:
    """If learning comes back with what it began from, the job is done and says so, and nothing is written."""
    monkeypatch.setattr(Runtime, "adapt", lambda self, x, start, **_: start)
    job = keeper.post(f"{ALICE}/adapt", json=body(faded[0]), headers={"Prefer": "wait=60"}).json
    assert (job["state"], job["revision"]) == ("done", 0)
    assert keeper.get(ALICE).status_code == 404


def test_a_job_is_watched_and_cancelled(keeper, runtime, monkeypatch, faded) -> None:
    """Another process sees how far it is and stops it; what it would have made is not written."""
    slow = Slow(monkeypatch, runtime)
    job = keeper.post(f"{ALICE}/adapt", json=body(faded[0])).json
    assert slow.begun.wait(20)
    until = time.monotonic() + 20
    while keeper.get(f"/v1/jobs/{job['id']}").json["step"] == 0 and time.monotonic() < until:
        time.sleep(0.05)
    seen = keeper.get(f"/v1/jobs/{job['id']}").json
    assert (seen["state"], seen["steps"]) == ("running", 1200)
    assert 0 < seen["step"] < 1200
    assert keeper.delete(f"/v1/jobs/{job['id']}").json["state"] == "cancelled"
    slow.go.set()
    waiting = keeper.post(f"{ALICE}/adapt", json=body(faded[0]), headers={"Prefer": "wait=60"}).json
    assert (waiting["state"], waiting["revision"]) == ("done", 1)  # the one after it is not disturbed
    assert keeper.get(f"/v1/jobs/{job['id']}").json["state"] == "cancelled"
    assert keeper.delete(f"/v1/jobs/{waiting['id']}").json["state"] == "done"


def test_what_changed_meanwhile_is_not_written_over(keeper, runtime, monkeypatch, faded) -> None:
    """A revision that came while a job learned stays the newest, and the job says why it failed."""
    slow = Slow(monkeypatch, runtime)
    job = keeper.post(f"{ALICE}/adapt", json=body(faded[0])).json
    assert slow.begun.wait(20)
    mine = runtime.signature("plain").replace(created="by hand")
    keeper.put(ALICE, data=mine.encode())
    slow.go.set()
    job = ended(keeper, job)
    assert job["state"] == "failed"
    assert "has changed since revision 0" in job["message"]
    assert keeper.get(ALICE).json["digest"] == mine.digest


def test_a_lost_job(keeper, store, monkeypatch) -> None:
    """A job whose process died is lost, after a while; others can go on."""
    job = Ledger(store).add("plain", "alice", action="adapt", actor="", expect=ANY)
    assert keeper.get(f"/v1/jobs/{job.id}").json["state"] == "queued"
    monkeypatch.setattr(ledger, "LOST_SECONDS", -1)
    seen = keeper.get(f"/v1/jobs/{job.id}").json
    assert seen["state"] == "lost"
    assert "send it again" in seen["message"]


def test_a_failing_job_says_why(keeper, monkeypatch, faded, caplog) -> None:
    """Our own errors in full; anything else only in the log."""

    def fail(problem):
        def adapt(*_args, **_options):
            raise problem

        monkeypatch.setattr(Runtime, "adapt", adapt)
        return keeper.post(f"{ALICE}/adapt", json=body(faded[0]), headers={"Prefer": "wait=60"}).json

    assert fail(IsoformError("expected this"))["message"] == "expected this"
    job = fail(ZeroDivisionError("secret"))
    assert (job["state"], job["message"]) == ("failed", "internal server error; the server's log has the details")
    assert "secret" in caplog.text


def test_only_so_many_wait(keeper, runtime, monkeypatch, faded) -> None:
    """A full queue is 503 with Retry-After."""
    monkeypatch.setattr("isoform.server.service.worker.JOBS", 2)
    app = create_app(runtime, store=keeper.application.extensions["isoform"].users.store)
    slow = Slow(monkeypatch, runtime)
    client = app.test_client()
    client.post(f"{ALICE}/adapt", json=body(faded[0][:1]))
    assert slow.begun.wait(20)
    codes = [client.post(f"{ALICE}/adapt", json=body(faded[0][:1])) for _ in range(3)]
    slow.go.set()
    assert [answer.status_code for answer in codes] == [202, 202, 503]
    assert codes[2].headers["Retry-After"] == "1"
    assert "jobs wait" in codes[2].json["error"]
    for answer in codes[:2]:
        ended(client, answer.json)


X = np.zeros((3, 1, 32, 32), dtype=np.float32)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("personalize", body(X), "$.inputs: a list of 2 objects was expected, but list of 1"),
        ("personalize", body(X, [1, 2]), "one label per sample was expected"),
        ("personalize", body(X, [1, 2, 99]), "99"),
        ("personalize", body(X, [1, 2, 99], datatype="INT64"), "99"),
        ("personalize", body(X, [1, 1, 1]), "two classes were expected"),
        (
            "personalize?parts=mixture,soul",
            body(X, [1, 2, 3]),
            "a subset of mixture,delta,coefficients,bn,head was expected",
        ),
        ("personalize", body(X * np.nan, [1, 2, 3]), "not finite"),
        ("adapt", body(X, [1, 2, 3]), "$.inputs: a list of one object was expected"),
        ("adapt?method=magic", body(X), "one of auto"),
        ("adapt", body(X[:0]), "at least one sample"),
        ("adapt", body(X[:, :, :3]), "[n, 1, 32, 32] was expected"),
    ],
)
def test_bad_samples_are_told_at_once(path, content, message, keeper) -> None:
    """400, before there is a job."""
    answer = keeper.post(f"{ALICE}/{path}", json=content)
    assert answer.status_code == 400
    assert message in answer.json["error"]
    assert keeper.get(f"{ALICE}/jobs").json == {"jobs": []}


def test_jobs_that_never_were(keeper, client) -> None:
    """404; and a server that keeps nothing has no jobs."""
    for identity in ("0" * 32, "x", "0" * 31 + "'"):
        assert keeper.get(f"/v1/jobs/{identity}").status_code == 404
        assert keeper.delete(f"/v1/jobs/{identity}").status_code == 404
    assert client.get(f"/v1/jobs/{'0' * 32}").status_code == 404
    assert client.post(f"{ALICE}/adapt", json=body(X)).status_code == 404
