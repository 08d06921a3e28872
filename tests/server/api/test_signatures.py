"""Users' signatures over HTTP: whoever is named answers, and nobody else."""

import concurrent.futures

import numpy as np
import pytest

from isoform.runtime.formats.signature import Signature
from isoform.server.app import create_app
from isoform.server.service.settings import Settings

ALICE = "/v1/models/plain/signatures/alice"


def personal(runtime, task="plain", *, seed=0, **changes) -> Signature:
    """A signature of a user's own: the base's mixture, moved."""
    base = runtime.signature(task)
    mixture = base.parts["mixture"] + np.random.default_rng(seed).normal(size=base.parts["mixture"].shape) * 3
    return base.replace(parts={"mixture": mixture.astype(np.float32)}, base=base.digest, labels=None, **changes)


def infer(client, x, task="plain", parameters=None, headers=None):
    """Ask for logits."""
    tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    body = {"inputs": [tensor], "outputs": [{"name": "logits"}], "parameters": parameters or {}}
    return client.post(f"/v2/models/{task}/infer", json=body, headers=headers)


def logits_of(answer):
    """As an array."""
    output = answer.json["outputs"][0]
    return np.array(output["data"], dtype=np.float32).reshape(output["shape"])


def test_whoever_is_named_answers(keeper, runtime, samples) -> None:
    """By parameter or header; the answer says who, which revision and which digest, and is the runtime's own, to the bit."""
    x = samples[0][:3]
    for name, seed in (("alice", 1), ("bob", 2)):
        assert (
            keeper.put(f"/v1/models/plain/signatures/{name}", data=personal(runtime, seed=seed).encode()).status_code
            == 201
        )
    for name, seed in (("alice", 1), ("bob", 2)):
        mine = personal(runtime, seed=seed)
        for answer in (
            infer(keeper, x, parameters={"signature": name}),
            infer(keeper, x, headers={"Isoform-Signature": name}),
            infer(keeper, x, parameters={"signature": name}, headers={"Isoform-Signature": name}),
        ):
            assert answer.json["parameters"] == {"signature": name, "revision": 1, "digest": mine.digest}
            assert np.array_equal(logits_of(answer), runtime.predict(x, mine))
    base = infer(keeper, x)
    assert base.json["parameters"] == {"digest": runtime.signature("plain").digest}
    assert np.array_equal(logits_of(base), runtime.predict(x, runtime.signature("plain")))
    both = infer(keeper, x, parameters={"signature": "alice"}, headers={"Isoform-Signature": "bob"})
    assert both.status_code == 400
    assert "send one of them" in both.json["error"]


def test_nobody_of_that_name(keeper, runtime, store, samples) -> None:
    """404, or the base signature by that name with revision 0; another task's user is nobody here; a server without a store says so."""
    x = samples[0][:1]
    keeper.put("/v1/models/edges/signatures/alice", data=personal(runtime, "edges").encode())
    for name in ("alice", "zoe"):
        answer = infer(keeper, x, parameters={"signature": name})
        assert answer.status_code == 404
        assert answer.json == {"error": f"there is no signature '{name}' for task 'plain'"}
    assert infer(keeper, x, parameters={"signature": "../etc"}).status_code == 400
    lenient = create_app(runtime, store=store, settings=Settings(unknown="base")).test_client()
    answer = infer(lenient, x, parameters={"signature": "zoe"})
    assert answer.json["parameters"] == {"signature": "zoe", "revision": 0, "digest": runtime.signature("plain").digest}
    without = create_app(runtime).test_client()
    answer = infer(without, x, parameters={"signature": "alice"})
    assert answer.status_code == 404
    assert "start it with --store" in answer.json["error"]


def test_life_of_a_signature(keeper, runtime) -> None:
    """Put, put again, read, download, roll back, delete."""
    assert keeper.get(ALICE).status_code == 404
    first, second = personal(runtime, seed=1), personal(runtime, seed=2)
    made = keeper.put(ALICE, data=first.encode())
    assert made.status_code == 201
    assert (
        made.json.items()
        >= {
            "task": "plain",
            "signature": "alice",
            "revision": 1,
            "digest": first.digest,
            "parent": None,
            "action": "put",
        }.items()
    )
    assert keeper.put(ALICE, data=first.encode()).json["revision"] == 1  # the same bytes again are no news
    again = keeper.put(ALICE, data=second.encode())
    assert (again.status_code, again.json["revision"], again.json["parent"]) == (200, 2, first.digest)
    assert keeper.get(ALICE).json == again.json
    assert keeper.get(f"{ALICE}/file").data == second.encode()
    assert keeper.get(f"{ALICE}/file?revision=1").data == first.encode()
    assert Signature.decode(keeper.get(f"{ALICE}/file").data).digest == second.digest
    back = keeper.post(f"{ALICE}/rollback", json={"revision": 1}).json
    assert (back["revision"], back["digest"], back["parent"], back["action"]) == (
        3,
        first.digest,
        second.digest,
        "rollback",
    )
    history = keeper.get(f"{ALICE}/revisions").json
    assert [r["revision"] for r in history["revisions"]] == [3, 2, 1]
    assert history["next"] is None
    page = keeper.get(f"{ALICE}/revisions?limit=2").json
    assert [r["revision"] for r in keeper.get(f"{ALICE}/revisions?before={page['next']}").json["revisions"]] == [1]
    assert keeper.delete(ALICE).status_code == 204
    assert (
        keeper.get(ALICE).status_code
        == keeper.get(f"{ALICE}/revisions").status_code
        == keeper.delete(ALICE).status_code
        == 404
    )
    assert keeper.get(f"{ALICE}/file?revision=1").status_code == 404


def test_pages_of_users(keeper, runtime) -> None:
    """By name, a page at a time."""
    data = personal(runtime).encode()
    for name in ("c", "a", "b"):
        keeper.put(f"/v1/models/plain/signatures/{name}", data=data)
    page = keeper.get("/v1/models/plain/signatures?limit=2").json
    assert [entry["signature"] for entry in page["signatures"]] == ["a", "b"]
    rest = keeper.get(f"/v1/models/plain/signatures?after={page['next']}").json
    assert [entry["signature"] for entry in rest["signatures"]] == ["c"]
    assert rest["next"] is None
    assert keeper.get("/v1/models/edges/signatures").json == {"signatures": [], "next": None}


def test_preconditions(keeper, runtime) -> None:
    """A write that was decided on an older revision does not happen."""
    first, second = personal(runtime, seed=1).encode(), personal(runtime, seed=2).encode()
    assert keeper.put(ALICE, data=first, headers={"If-Match": "*"}).status_code == 412
    tag = keeper.put(ALICE, data=first, headers={"If-None-Match": "*"}).headers["ETag"]
    assert keeper.put(ALICE, data=second, headers={"If-None-Match": "*"}).status_code == 412
    assert keeper.get(ALICE, headers={"If-None-Match": tag}).status_code == 304
    for wanted, status in (("*", 200), (tag, 200), ('"1-x"', 412)):
        for path in (ALICE, f"{ALICE}/file"):
            assert keeper.get(path, headers={"If-Match": wanted}).status_code == status
    assert keeper.put(ALICE, data=second, headers={"If-Match": tag}).status_code == 200
    for method, path in ((keeper.put, ALICE), (keeper.delete, ALICE)):
        stale = method(path, data=first, headers={"If-Match": tag})
        assert stale.status_code == 412
        assert "the newest revision's ETag is 2-" in stale.json["error"]
    assert keeper.post(f"{ALICE}/rollback", json={"revision": 1}, headers={"If-Match": tag}).status_code == 412
    assert keeper.get(ALICE).json["revision"] == 2


def test_two_preconditions(keeper, runtime) -> None:
    """If-Match first and then If-None-Match, as RFC 9110 orders them: a write needs both; a read is 412 by the first, 304 by the second."""
    first, second = personal(runtime, seed=1).encode(), personal(runtime, seed=2).encode()
    tag, other = keeper.put(ALICE, data=first).headers["ETag"], '"1-x"'
    for match, none_match, read in (
        (tag, tag, 304),
        ("*", "*", 304),
        ("*", other, 200),
        (other, tag, 412),
        (other, other, 412),
    ):
        headers = {"If-Match": match, "If-None-Match": none_match}
        for path in (ALICE, f"{ALICE}/file"):
            answer = keeper.get(path, headers=headers)
            assert (answer.status_code, bool(answer.data)) == (read, read != 304)
        if read != 200:
            answer = keeper.put(ALICE, data=second, headers=headers)
            assert answer.status_code == 412
            assert answer.json["error"].startswith("If-Match is" if match == other else "If-None-Match is")
            assert keeper.delete(ALICE, headers=headers).status_code == 412
    assert keeper.get(ALICE).json["revision"] == 1
    answer = keeper.put(ALICE, data=second, headers={"If-Match": tag, "If-None-Match": other})
    assert (answer.status_code, answer.json["revision"]) == (200, 2)
    nobody = keeper.put("/v1/models/plain/signatures/zoe", data=first, headers={"If-Match": "*", "If-None-Match": "*"})
    assert nobody.status_code == 412


def test_one_of_many_wins(keeper, runtime, store) -> None:
    """Eight clients who all read revision 1 and write: one succeeds, the others are told."""
    tag = keeper.put(ALICE, data=personal(runtime).encode()).headers["ETag"]
    app = create_app(runtime, store=store)

    def write(seed: int) -> int:
        return (
            app.test_client()
            .put(ALICE, data=personal(runtime, seed=seed).encode(), headers={"If-Match": tag})
            .status_code
        )

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = sorted(pool.map(write, range(1, 9)))
    assert codes == [200] + [412] * 7


def test_a_request_sent_twice_is_done_once(keeper, runtime) -> None:
    """The same idempotency key: the same answer, and no second revision; with another body: refused."""
    first, second = personal(runtime, seed=1).encode(), personal(runtime, seed=2).encode()
    answers = [keeper.put(ALICE, data=first, headers={"Idempotency-Key": "k1"}) for _ in range(2)]
    assert answers[0].json == answers[1].json
    assert [a.headers.get("Idempotent-Replayed") for a in answers] == [None, "true"]
    keeper.put(ALICE, data=second)
    for _ in range(3):
        assert (
            keeper.post(f"{ALICE}/rollback", json={"revision": 1}, headers={"Idempotency-Key": "k2"}).json["revision"]
            == 3
        )
    refused = keeper.put(ALICE, data=second, headers={"Idempotency-Key": "k1"})
    assert refused.status_code == 409
    assert "choose a new one" in refused.json["error"]
    assert keeper.put(ALICE, data=first, headers={"Idempotency-Key": "x" * 300}).status_code == 400


def test_only_signatures_that_fit_get_in(keeper, runtime) -> None:
    """Damaged, foreign, of another task, or no signature at all: 400, in one line, and nothing is kept."""
    good = personal(runtime).encode()
    for data, message in (
        (b"", "cut short"), (b"x" * 100, ""), (good[:-1], ""), (good[:300] + bytes([good[300] ^ 1]) + good[301:], ""),
        (personal(runtime, template="0" * 64).encode(), "templates"), (personal(runtime, "edges").encode(), "is for task 'edges'"),
    ):  # fmt: skip
        answer = keeper.put(ALICE, data=data)
        assert answer.status_code == 400
        assert message in answer.json["error"]
        assert "\n" not in answer.json["error"]
    assert keeper.get(ALICE).status_code == 404
    assert keeper.put("/v1/models/klingon/signatures/alice", data=good).status_code == 404
    assert keeper.put("/v1/models/plain/signatures/.hidden", data=good).status_code == 400
    assert keeper.put("/v1/models/plain/signatures/" + "x" * 65, data=good).status_code == 400


@pytest.mark.parametrize(
    "path", ["?limit=0", "?limit=x", "?limit=1001", "/alice/revisions?before=-1", "/alice/file?revision=0"]
)
def test_numbers_out_of_range(path, keeper, runtime) -> None:
    """400, with the range."""
    keeper.put(ALICE, data=personal(runtime).encode())
    answer = keeper.get(f"/v1/models/plain/signatures{path}")
    assert answer.status_code == 400
    assert "a whole number from" in answer.json["error"]


@pytest.mark.parametrize(
    "body", [{}, {"revision": "1"}, {"revision": True}, {"revision": 0}, {"revision": 1, "x": 1}, []]
)
def test_rollback_to_nothing(body, keeper, runtime) -> None:
    """Malformed: 400. A revision that never was: 404."""
    keeper.put(ALICE, data=personal(runtime).encode())
    assert keeper.post(f"{ALICE}/rollback", json=body).status_code == 400
    assert keeper.post(f"{ALICE}/rollback", json={"revision": 7}).status_code == 404
    assert keeper.post("/v1/models/plain/signatures/zoe/rollback", json={"revision": 1}).status_code == 404


@pytest.mark.trust
def test_stored_bytes_are_checked_again(keeper, store, samples) -> None:
    """What another program wrote into the database is never run."""
    for data in (b"no", b""):
        store.append("plain", "alice", digest="0" * 64, data=data, action="put", actor="")
        assert infer(keeper, samples[0][:1], parameters={"signature": "alice"}).status_code == 503
        number = store.newest("plain", "alice").revision
        assert keeper.get(f"{ALICE}/file").status_code == 503
        assert keeper.post(f"{ALICE}/rollback", json={"revision": number}).status_code == 503
        assert store.newest("plain", "alice").revision == number


def test_another_users_bytes_are_not_run(keeper, runtime, store, samples) -> None:
    """A digest that is not the bytes' own: an error inside, and no answer."""
    other = personal(runtime, seed=5)
    store.append("plain", "alice", digest="1" * 64, data=other.encode(), action="put", actor="")
    answer = infer(keeper, samples[0][:1], parameters={"signature": "alice"})
    assert answer.status_code == 503
    assert "outputs" not in answer.json
