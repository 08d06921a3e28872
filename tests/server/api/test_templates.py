"""Which templates a network is made of, over HTTP: the runtime's own mixture, and told to whoever may predict with it."""

import numpy as np
import pytest

from isoform.runtime.arrays import softmax
from isoform.runtime.formats.signature import Signature
from isoform.server.access.keys import Keys
from isoform.server.app import create_app

ROUTE = "/v1/models/plain/templates"


@pytest.fixture(scope="module")
def mixed(runtime) -> Signature:
    """A signature whose layers mix several templates."""
    spec = runtime.bundle.spec
    logits = np.random.default_rng(3).normal(size=(spec.layers, spec.templates)).astype(np.float32)
    base = runtime.signature("plain").keep("mixture")
    return Signature(parts={"mixture": logits}, template=base.template, task=base.task, base=base.base)


def test_the_base(client, runtime) -> None:
    """Without a user it is the task's own mixture, whose rows sum to 1."""
    answer = client.get(ROUTE).json
    base = runtime.signature("plain")
    assert answer["digest"] == answer["base"]["digest"] == base.digest
    assert answer["templates"] == runtime.bundle.spec.templates
    assert tuple(answer["labels"]) == runtime.labels(base)
    assert "signature" not in answer
    assert np.array_equal(answer["layers"], softmax(base.parts["mixture"]))
    assert np.allclose(np.sum(answer["layers"], axis=1), 1, atol=1e-12)


def test_a_user_beside_the_base(keeper, runtime, mixed) -> None:
    """With a user it is the newest revision's, and the base's beside it."""
    assert keeper.put("/v1/models/plain/signatures/alice", data=mixed.encode()).status_code == 201
    answer = keeper.get(f"{ROUTE}?signature=alice").json
    assert (answer["signature"], answer["revision"], answer["digest"]) == ("alice", 1, mixed.digest)
    assert np.array_equal(answer["layers"], softmax(mixed.parts["mixture"]))
    assert np.array_equal(answer["base"]["layers"], softmax(runtime.signature("plain").parts["mixture"]))
    assert answer["layers"] != answer["base"]["layers"]


def test_what_is_not_there(keeper, client) -> None:
    """No such task or user, a name that is none, or a server without a store: one line each."""
    for asked, path, status, line in (
        (keeper, "/v1/models/nope/templates", 404, "there is no task 'nope'"),
        (keeper, f"{ROUTE}?signature=bob", 404, "there is no signature 'bob'"),
        (keeper, f"{ROUTE}?signature=a/b", 400, "a/b"),
        (client, f"{ROUTE}?signature=bob", 404, "has no store"),
    ):
        answer = asked.get(path)
        assert answer.status_code == status
        assert line in answer.json["error"]


def test_only_who_may_predict_may_look(runtime, store, mixed) -> None:
    """A key sees the base and the users that it may predict as, and no word on others."""
    keys = Keys(store)
    guarded = create_app(runtime, store=store, keys=keys).test_client()
    alice, metrics = ({"Authorization": f"Bearer {keys.add('k', [scope])}"} for scope in ("predict:alice", "metrics"))
    writer = {"Authorization": f"Bearer {keys.add('w', ['write:*'])}"}
    guarded.put("/v1/models/plain/signatures/alice", data=mixed.encode(), headers=writer)
    asked = [(None, ROUTE), (metrics, ROUTE), (alice, ROUTE), (alice, f"{ROUTE}?signature=alice"), (alice, f"{ROUTE}?signature=bob")]  # fmt: skip
    assert [guarded.get(path, headers=key).status_code for key, path in asked] == [401, 403, 200, 200, 403]
