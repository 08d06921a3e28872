"""The judge of ``benchmarks/isolation.py`` finds what may come back after a deletion, and nothing where all is well."""

import dataclasses

import numpy as np
import pytest
from bench.faults.crowd import Answer, User, batches_of
from bench.faults.deletions import Deletions, Kept
from bench.faults.verdict import judge

pytestmark = pytest.mark.trust
ALICE = User("plain", "alice", "key")
WHOSE = ("plain", "alice")
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def said(kind, began, status=200, /, **told) -> Answer:
    """An answer that took a second."""
    return Answer(kind=kind, user=ALICE, began=began, ended=began + 1, status=status, told=told)


def put(began, revision, digest=A) -> Answer:
    """A signature was put."""
    return said("put", began, 201, revision=revision, digest=digest)


def gone(began, status=204) -> Answer:
    """The user was deleted, or so."""
    return said("delete", began, status)


def job(kind, began, state, revision=None) -> Answer:
    """What was said of a job that adapts."""
    return said(kind, began, 202 if kind == "adapt" else 200, id="j", state=state, revision=revision, action="adapt")


def kept(digest, parent=None, action="put", data=None) -> Kept:
    """A revision in the store."""
    return Kept(digest, parent, action, data)


def found(answers, history, *, kills=0) -> dict:
    """Faults, but for those that need predictions."""
    deletions = Deletions(answers, {WHOSE: history}, {})
    acknowledged = [(answer, answer.acknowledged) for answer in answers if answer.acknowledged]
    counted = {
        "lost": deletions.lost(acknowledged), "revived": deletions.revived(), "lineage": deletions.lineage({"plain": C}),
        "abandoned": deletions.abandoned(kills=kills),
    }  # fmt: skip
    return {name: count for name, count in counted.items() if count}


WELL = [
    ([put(0, 1), gone(2), put(4, 2, B)], {2: kept(B)}),
    ([put(0, 1), gone(0.5), put(4, 2, B)], {2: kept(B)}),  # at the same time: either may be first
    ([put(0, 1), gone(2, 503)], {1: kept(A)}),
    ([put(0, 1), gone(2, 503)], {}),
    ([job("adapt", 0, "queued"), gone(2), job("job", 4, "cancelled"), put(6, 1, B)], {1: kept(B)}),
    ([job("adapt", 0, "queued"), gone(0.5), job("job", 4, "done", 1)], {1: kept(A, action="adapt")}),
    ([job("adapt", 0, "queued"), job("job", 2, "done", 1), gone(4), put(6, 2, B)], {2: kept(B)}),
    ([put(0, 1), job("adapt", 2, "queued"), job("job", 4, "done", 2)], {1: kept(A), 2: kept(B, A, "adapt")}),
    ([gone(0), said("predict", 2, 404)], {}),
    (
        [job("adapt", 0, "queued"), job("job", 2, "running"), gone(4), job("job", 6, "done", 1)],
        {},
    ),  # done before the deletion
]
ILL = [
    ("revived", [put(0, 1), gone(2), put(4, 1, B)], {1: kept(B)}),
    ("revived", [put(0, 1), gone(2)], {1: kept(A)}),
    ("revived", [job("adapt", 0, "queued"), gone(2), job("job", 4, "done", 1)], {1: kept(A, action="adapt")}),
    ("revived", [job("adapt", 0, "queued"), gone(2, 404), job("job", 4, "running")], {}),
    ("revived", [job("adapt", 0, "queued"), job("cancel", 2, "cancelled"), job("job", 4, "done", 1)], {1: kept(A, action="adapt")}),
    ("lineage", [job("adapt", 0, "queued"), put(2, 1), job("job", 4, "done", 2)], {1: kept(A), 2: kept(B, A, "adapt")}),
    ("lost", [put(0, 1)], {}),
    ("lost", [gone(0), put(2, 1)], {}),
    ("lost", [put(0, 1, A)], {1: kept(B)}),
    ("lost", [said("predict", 0, 404)], {1: kept(A)}),
    ("lost", [gone(0), put(2, 1), said("predict", 4, 404)], {1: kept(A)}),
    ("abandoned", [job("adapt", 0, "queued"), job("job", 2, "lost")], {}),
]  # fmt: skip


@pytest.mark.parametrize(("answers", "history"), WELL)
def test_what_is_well_is_no_fault(answers, history) -> None:
    """Deletions before, after and beside other requests."""
    assert found(answers, history) == {}


@pytest.mark.parametrize(("fault", "answers", "history"), ILL)
def test_each_fault_is_found(fault, answers, history) -> None:
    """What was deleted is there again, a job has another's parent, something is gone for no reason: that fault, and no other."""
    assert [*found(answers, history)] == [fault]
    assert found(answers[::-1], history) == found(answers, history)  # clients' answers come in no order


def test_a_parent_that_never_was_is_found(runtime) -> None:
    """A learned revision whose file names another parent than its record; a history that does not begin where it may."""
    base = runtime.signature("plain")
    learned = base.replace(created="learned")  # its parent is the base
    good, bad = (kept(learned.digest, parent, "adapt", learned.encode()) for parent in (None, A))
    for first, entry, faults in ((1, good, {}), (1, bad, {"lineage": 1, "torn": 1}), (2, good, {"torn": 1})):
        judged = judge([put(0, 9), gone(2)][:0], {WHOSE: {first: entry}}, runtime, [], {})
        assert {name: judged[name] for name in ("lineage", "torn", "revived") if judged[name]} == faults
    deleted = judge([gone(0)], {WHOSE: {2: good}}, runtime, [], {})
    assert deleted["torn"] == 0
    assert judge([said("put", 0, 500)], {}, runtime, [], {})["failed"] == 1


def test_anothers_network_is_found_whoever_was_deleted(runtime) -> None:
    """A prediction from a revision that was deleted before anybody saw it: right by its own user's file, wrong by another's."""
    base = runtime.signature("plain")
    rng = np.random.default_rng(0)
    alices, bobs = (
        base.replace(parts={"mixture": rng.normal(size=base.parts["mixture"].shape)}, base=base.digest, labels=None)
        for _ in range(2)
    )
    x = rng.random((2, *runtime.bundle.spec.input_shape), dtype=np.float32)
    (batch,) = batches_of(x, [0, 0], [2])
    sent = {signature.digest: signature.encode() for signature in (alices, bobs)}
    bob = User("plain", "bob", "key")
    puts = [
        dataclasses.replace(put(0, 1, alices.digest), digest=alices.digest),
        dataclasses.replace(put(0, 1, bobs.digest), user=bob, digest=bobs.digest),
    ]
    for signature, name, wrong in ((alices, "alice", 0), (bobs, "alice", 1), (bobs, "bob", 1), (alices, "bob", 1)):
        told = {"parameters": {"signature": name, "revision": 1, "digest": signature.digest}}
        predicted = dataclasses.replace(
            said("predict", 2, 200, **told), batch=0, logits=runtime.predict(x, signature)
        )  # fmt: skip
        for deletions in ([gone(1.5)], [gone(50)]):
            judged = judge([*puts, predicted, *deletions], {}, runtime, [batch], sent)
            assert (judged["wrong"], judged["predictions_unknown"]) == (wrong, 0)
