"""The queue of jobs: a share for each caller and each user, and turns."""

import threading

import numpy as np
import pytest
from jobs import Slow, body

from isoform.server.access.keys import Keys
from isoform.server.app import create_app
from isoform.server.exchange.problems import BusyError, TooManyError
from isoform.server.service.settings import Settings
from isoform.server.service.turns import Turns

pytestmark = pytest.mark.trust
X = np.zeros((1, 1, 32, 32), dtype=np.float32)


def test_one_caller_does_not_fill_the_queue(runtime, store, monkeypatch) -> None:
    """Who has used up the share gets 429 and when to come again; others get in; a second key for the same user is no way around."""
    slow, keys = Slow(monkeypatch, runtime), Keys(store)
    client = create_app(runtime, store=store, keys=keys, settings=Settings(jobs_per_caller=3)).test_client()
    phones = [keys.add(name, [f"write:{user}"]) for name, user in (("a", "alice"), ("b", "alice"), ("c", "carol"))]

    def send(key, user):
        place = f"/v1/models/plain/signatures/{user}/adapt"
        return client.post(place, json=body(X), headers={"Authorization": f"Bearer {key}"})

    assert send(phones[0], "alice").status_code == 202
    assert slow.begun.wait(20)
    assert [send(phones[0], "alice").status_code for _ in range(3)] == [202] * 3
    refused = send(phones[0], "alice")
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert "jobs of this caller wait" in refused.json["error"]
    assert "jobs for this user wait" in send(phones[1], "alice").json["error"]
    assert send(phones[2], "carol").status_code == 202
    slow.go.set()


def test_each_user_is_a_caller_where_nobody_is_told_from_anybody(runtime, store, monkeypatch) -> None:
    """Without keys, one user's jobs that wait are no other user's."""
    slow = Slow(monkeypatch, runtime)
    client = create_app(runtime, store=store, settings=Settings(jobs_per_caller=2)).test_client()

    def send(user):
        return client.post(f"/v1/models/plain/signatures/{user}/adapt", json=body(X)).status_code

    assert send("alice") == 202
    assert slow.begun.wait(20)
    assert [send("alice") for _ in range(3)] == [202, 202, 429]
    assert send("bob") == 202
    slow.go.set()


def test_callers_take_turns() -> None:
    """A caller with many jobs delays another one's by one; each one's come in their order."""
    turns = Turns[str](places=10, share=5)
    for name in ("a1", "a2", "a3", "b1", "a4", "c1", "b2"):
        turns.put(turns.reserve(name[0], ("t", name)), name)
    assert [turns.take() for _ in range(7)] == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_places_are_counted() -> None:
    """Reserved, waiting and dropped ones."""
    turns = Turns[str](places=3, share=2)
    first = turns.reserve("x", ("t", "x"))
    turns.put(turns.reserve("x", ("t", "x")), "x2")
    with pytest.raises(TooManyError, match="2 jobs of this caller wait in this process, and the limit is 2"):
        turns.reserve("x", ("t", "x"))
    turns.put(turns.reserve("y", ("t", "y")), "y1")
    with pytest.raises(BusyError, match="3 jobs wait in this process"):
        turns.reserve("z", ("t", "z"))
    turns.release(first)
    turns.drop(lambda item: item == "x2")
    places = [turns.reserve("x", ("t", "x")) for _ in range(2)]
    found = list[str]()
    taker = threading.Thread(target=lambda: found.extend(turns.take() for _ in range(2)))
    taker.start()
    turns.put(places[0], "x3")
    taker.join(20)
    assert found == ["y1", "x3"]
