"""``benchmarks/isolation.py`` for a few seconds: every answer is its digest's, nothing acknowledged is lost; and the judge can find faults."""

import dataclasses

import numpy as np
import pytest
from bench.faults.verdict import FAULTS, judge
from isolation import Run, crowded, summary

SECONDS = 4
pytestmark = pytest.mark.xdist_group("isolation")  # what happened when nobody was killed is made once


@pytest.fixture(scope="module")
def calm(compiled, tmp_path_factory) -> Run:
    """What happened when nobody was killed. Do not change it."""
    folder = tmp_path_factory.mktemp("calm")
    return crowded(compiled, str(folder / "what?.db"), folder, seconds=SECONDS, clients=12, users=30, kill_every=None)  # fmt: skip


def faults(found) -> dict:
    """Those that are there."""
    return {name: found[name] for name in (*FAULTS, "tracebacks") if found.get(name)}


def test_nobody_gets_anothers_answer(calm, compiled) -> None:
    """Every prediction, every revision; nothing broke, and every kind of request was made."""
    found = summary(compiled, calm)
    assert faults(found) == {}
    assert found["predictions_checked"] > 100
    assert found["predictions_unknown"] < found["predictions_checked"] / 10  # somebody looked at what was deleted
    assert found["acknowledged"] > 20
    assert found["broken"] == 0
    assert found["other_signatures_difference"] > 100 * max(found["largest_difference"], 1e-6)  # a mix-up would be seen
    kinds = {answer.kind for answer in calm.answers}
    assert {"predict", "base", "put", "rollback", "another's", "delete"} <= kinds


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_killed_processes_lose_nothing(store, compiled, tmp_path, request) -> None:
    """A process is killed every second: requests break, but what was acknowledged is there, and no answer is wrong."""
    url = f"sqlite:///{tmp_path / 's.db'}" if store == "sqlite" else request.getfixturevalue("emptied")
    run = crowded(compiled, url, tmp_path, seconds=SECONDS, clients=12, users=30, kill_every=1)
    found = summary(compiled, run)
    assert faults(found) == {}
    assert found["kills"] >= 3
    assert found["acknowledged"] > 5
    assert found["predictions_checked"] > 20


@pytest.mark.trust
def test_a_restarted_database_loses_nothing(emptied, compiled, tmp_path) -> None:
    """PostgreSQL is stopped again and again while users are deleted and jobs cancelled: 503, and nothing lost, revived or failed."""
    run = crowded(
        compiled, emptied, tmp_path, seconds=6, clients=8, users=20, kill_every=None, restart_every=2.5
    )  # fmt: skip
    found = summary(compiled, run)
    assert faults(found) == {}
    assert found["restarts"] >= 1
    assert found["acknowledged"] > 5
    assert found["predictions_checked"] > 20
    answered = {answer.kind for answer in run.answers if 200 <= answer.status < 300}
    assert {"predict", "base", "put", "delete"} <= answered


def never_deleted(run: Run) -> dict:
    """History of those who were there all the time."""
    deleted = {answer.whose for answer in run.answers if answer.kind == "delete"}
    return {whose: kept for whose, kept in run.history.items() if whose not in deleted}


def spoilt(run: Run, kind: str, **changes) -> list:
    """Answers, with changes to the first good one of a kind."""
    place = next(i for i, a in enumerate(run.answers) if a.kind == kind and a.status in (200, 201, 403))
    answers = list(run.answers)
    answers[place] = dataclasses.replace(
        answers[place], **{name: change(answers[place]) for name, change in changes.items()}
    )
    return answers


def test_the_judge_finds_wrong_answers(calm, runtime) -> None:
    """One number of one answer, one digest, one name, one key too many, one failure: each is counted, and nothing else is."""
    other = next(a for a in calm.answers if a.kind == "predict" and a.user is not calm.answers[0].user)

    def told(**changes):
        return lambda answer: {**answer.told, "parameters": {**answer.told["parameters"], **changes}}

    cases = [
        ("wrong", spoilt(calm, "predict", logits=lambda a: a.logits + np.float32(0.01) * np.abs(a.logits).max())),
        ("wrong", spoilt(calm, "base", logits=lambda a: a.logits[::-1] * 2)),
        ("wrong", spoilt(calm, "predict", told=told(signature="somebody"))),
        ("wrong", spoilt(calm, "predict", told=told(digest="0" * 64))),
        ("opened", spoilt(calm, "another's", status=lambda a: 200)),
        ("failed", spoilt(calm, "predict", status=lambda a: 500)),
        ("lost", spoilt(calm, "put", told=lambda a: {**a.told, "digest": "0" * 64})),
    ]  # fmt: skip
    assert other.status == 200
    for fault, answers in cases:
        found = judge(answers, calm.history, runtime, calm.batches, calm.sent, seen=calm.seen)
        assert found[fault] == 1, fault
        assert not any(found[name] for name in FAULTS if name != fault), fault


def test_the_judge_finds_lost_revisions(calm, runtime) -> None:
    """A user's newest revision gone, one in the middle gone, one written twice, an answer from before what was known."""
    there = never_deleted(calm)
    users = {whose: kept for whose, kept in there.items() if len(kept) >= 3 and kept[max(kept)].action == "put"}
    whose, kept = next(iter(users.items()))
    last = max(kept)

    def judged(changed, answers=calm.answers):
        return judge(answers, {**calm.history, whose: changed}, runtime, calm.batches, calm.sent, seen=calm.seen)

    assert judged({n: r for n, r in kept.items() if n != last})["lost"] >= 1
    assert judged({n: r for n, r in kept.items() if n != 2})["torn"] == 1
    assert judged({**kept, 2: dataclasses.replace(kept[2], parent="0" * 64)})["torn"] == 1
    keyed = next(a for a in calm.answers if a.key and a.status in (200, 201) and a.whose in there)
    mine = calm.history[keyed.user.task, keyed.user.name]
    again = dataclasses.replace(mine[keyed.told["revision"]], parent=mine[max(mine)].digest)
    found = judge(
        calm.answers,
        {**calm.history, (keyed.user.task, keyed.user.name): {**mine, max(mine) + 1: again}},
        runtime,
        calm.batches,
        calm.sent,
    )
    assert (found["twice"], found["torn"]) == (1, 0)
    late = [
        dataclasses.replace(a, began=a.began + 1e6, ended=a.ended + 1e6)
        if a.kind == "predict" and a.told.get("parameters", {}).get("revision") == 1
        else a
        for a in calm.answers
    ]
    assert judged(kept, late)["backwards"] >= 1
