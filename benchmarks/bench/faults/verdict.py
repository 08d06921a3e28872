"""Is what clients were told true? Judged afterwards, from what they wrote down and what the store holds, by a runtime of our own.

    wrong       a prediction that is not what its digest's signature gives offline, or whose digest is not that user's at that revision
    backwards   a prediction from a revision that is older than one that some client had been told of before it asked
    torn        a user whose revisions do not count on by one, from 1 where nobody deleted him, or do not name the one before as their parent
    lost, revived, lineage, abandoned       as ``bench/faults/deletions.py`` says
    twice       a put with an idempotency key that was done more than once
    opened      a request for somebody else's signature that was not refused
    failed      an answer of 500 or above, but for a 503 that says why

An answer equals the offline one to the bit where both ran as one batch of the same size; a server may put requests together, and then
the last bits may differ: ``TOLERANCE``, in proportion to the largest logit.
"""

from __future__ import annotations

import bisect
import collections
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sql

from bench.faults.crowd import Answer, Batch
from bench.faults.deletions import Deletions, History, Kept, Whose
from isoform.runtime import Runtime, Signature
from isoform.runtime.arrays import Array
from isoform.server.store.schema import revisions
from isoform.server.store.store import Store

__all__ = ["FAULTS", "History", "Kept", "judge", "merged", "read_history"]

TOLERANCE = 1e-4
FAULTS = ("wrong", "backwards", "lost", "revived", "lineage", "abandoned", "torn", "twice", "opened", "failed")


def read_history(store: Store, *, since: int = 0) -> dict[Whose, dict[int, Kept]]:
    """All that a store holds that was written since a time, in milliseconds since 1970."""
    found = collections.defaultdict[Whose, dict[int, Kept]](dict)
    with store.reading() as connection:
        for row in connection.execute(sql.select(revisions).where(revisions.c.created >= since)):
            data = None if row.data is None else bytes(row.data)
            parent = None if row.parent is None else bytes(row.parent).hex()
            found[row.task, row.user][row.revision] = Kept(bytes(row.digest).hex(), parent, row.action, data)
    return dict(found)


def merged(*histories: History) -> dict[Whose, dict[int, Kept]]:
    """Several as one; what a later one holds replaces what an earlier one does, but for bytes that are no longer kept."""
    found = collections.defaultdict[Whose, dict[int, Kept]](dict)
    for history in histories:
        for whose, kept in history.items():
            for number, entry in kept.items():
                if entry.data is not None or number not in found[whose]:
                    found[whose][number] = entry
    return dict(found)


def judge(
    answers: Sequence[Answer], history: History, runtime: Runtime, batches: Sequence[Batch], sent: Mapping[str, bytes],
    *, seen: History | None = None, kills: int = 1,
) -> dict[str, float]:  # fmt: skip
    """Count faults.

    Args:
        answers: What clients were told.
        history: What the store holds after the end.
        runtime: Over the bundle that was served.
        batches: What they asked about.
        sent: Files that they put, by digest.
        seen: What the store was seen to hold meanwhile: deletions leave nothing of it at the end.
        kills: How many processes were killed; jobs may be lost if any was.

    Returns:
        ``FAULTS`` → how many, and how many were looked at: ``predictions_checked``, ``predictions_unknown`` (from revisions that were
        made and deleted before anybody saw them), ``bit_equal_share``, ``largest_difference`` (in
        proportion to the largest logit), ``other_signatures_difference`` (the same between answers of different signatures about the
        same samples, first percentile: what a mix-up would look like), ``acknowledged``, ``never_acknowledged``.
    """
    predictions = [answer for answer in answers if answer.logits is not None and answer.kind in ("predict", "base")]
    acknowledged = [(answer, made) for answer in answers if (made := answer.acknowledged) is not None]
    seen = seen or {}
    deletions = Deletions(answers, history, seen)
    bases = {task: runtime.signature(task).digest for task in runtime.tasks}
    held = {(whose, number) for whose, kept in history.items() for number in kept}
    told = {(_whose(answer), made) for answer, made in acknowledged}
    keys = collections.Counter(
        (_whose(answer), answer.digest) for answer in {a.key: a for a in answers if a.key}.values()
    )
    whole = merged(seen, history)
    return {
        **_arithmetic(predictions, whole, _owners(answers, whole), deletions, runtime, batches, sent),
        "backwards": _backwards(predictions, acknowledged),
        "lost": deletions.lost(acknowledged), "revived": deletions.revived(), "lineage": deletions.lineage(bases),
        "abandoned": deletions.abandoned(kills=kills),
        "torn": sum(_is_torn(kept, deletions.may_explain(whose, since=0)) for whose, kept in history.items()),
        "twice": sum(_times_put(history, *put) > 1 for put in keys),
        "opened": sum(answer.kind == "another's" and answer.status not in (0, 403, 503) for answer in answers),
        "failed": sum(answer.status >= 500 and not (answer.status == 503 and "error" in answer.told) for answer in answers),
        "acknowledged": len(told), "never_acknowledged": len({entry for entry in held if entry[1] > 1} - told),
    }  # fmt: skip


def _whose(answer: Answer) -> Whose:
    assert answer.user is not None
    return answer.user.task, answer.user.name


def _arithmetic(
    predictions: Sequence[Answer], history: History, owners: Mapping[str, set[Whose]], deletions: Deletions, runtime: Runtime,
    batches: Sequence[Batch], sent: Mapping[str, bytes],
) -> dict[str, float]:  # fmt: skip
    files = {entry.digest: entry.data for kept in history.values() for entry in kept.values() if entry.data is not None}
    files.update(sent)  # what a client put itself needs no word of the store
    bases = {runtime.signature(task).digest: runtime.signature(task) for task in runtime.tasks}
    wrong, equal, unknown, largest, others = 0, 0, 0, 0.0, list[float]()
    last = dict[int, tuple[str, Array]]()
    by_digest = sorted(predictions, key=lambda answer: str(answer.told.get("parameters", {}).get("digest")))
    for digest, group in itertools.groupby(
        by_digest, key=lambda answer: answer.told.get("parameters", {}).get("digest")
    ):
        signature = bases.get(digest)
        if signature is None and digest in files:
            signature = Signature.decode(files[digest])
        for answer in group:
            assert answer.batch is not None
            forgotten = _is_forgotten(answer, history, deletions)
            if signature is None and forgotten:
                unknown += 1
                continue
            # Of a revision that nobody saw before it was deleted, only whose file it was is known, and what that file predicts.
            theirs = (
                owners.get(digest) == {answer.whose} and answer.told["parameters"].get("signature") == answer.whose[1]
                if forgotten
                else _belongs(answer, digest, history, bases)
            )
            if signature is None or not theirs:
                wrong += 1
                continue
            assert answer.logits is not None
            expected = runtime.predict(batches[answer.batch].x, signature)
            scale = float(np.abs(expected).max())
            difference = (
                float(np.abs(answer.logits - expected).max()) / scale
                if answer.logits.shape == expected.shape
                else np.inf
            )
            wrong += not difference <= TOLERANCE
            equal += difference == 0
            largest = max(largest, difference)
            other = last.get(answer.batch)
            if other is not None and other[0] != digest and other[1].shape == expected.shape:
                others.append(float(np.abs(other[1] - expected).max()) / scale)
            last[answer.batch] = digest, expected
    return {
        "predictions_checked": len(predictions) - unknown, "predictions_unknown": unknown, "wrong": wrong,
        "bit_equal_share": equal / max(1, len(predictions) - unknown),
        "largest_difference": largest, "other_signatures_difference": float(np.percentile(others, 1)) if others else float("nan"),
    }  # fmt: skip


def _owners(answers: Sequence[Answer], history: History) -> dict[str, set[Whose]]:
    """Digest → whose signature it is: who put it, and whose revisions have it."""
    found = collections.defaultdict[str, set[Whose]](set)
    for whose, kept in history.items():
        for entry in kept.values():
            found[entry.digest].add(whose)
    for answer in answers:
        if answer.digest is not None:
            found[answer.digest].add(answer.whose)
    return dict(found)


def _belongs(answer: Answer, digest: str, history: History, bases: Mapping[str, Signature]) -> bool:
    """Whether that signature is whose was asked for."""
    told = answer.told["parameters"]
    if answer.user is None:
        return set(told) == {"digest"} and digest in bases and bases[digest].task == answer.told["model_name"]
    kept = history.get(_whose(answer), {}).get(told.get("revision"))
    return told.get("signature") == answer.user.name and kept is not None and kept.digest == digest


def _is_forgotten(answer: Answer, history: History, deletions: Deletions) -> bool:
    """Whether a prediction came from a revision that was deleted before anybody looked, so that nothing is known of it."""
    if answer.user is None or answer.predicted in history.get(_whose(answer), {}):
        return False
    return deletions.may_explain(_whose(answer), since=answer.began)


def _backwards(predictions: Sequence[Answer], acknowledged: Sequence[tuple[Answer, int]]) -> int:
    """How many predictions came from a revision older than one that was known when they were asked for."""
    known = collections.defaultdict[Whose, list[tuple[float, int]]](list)
    asked = [answer for answer in predictions if answer.user is not None]
    for answer, revision in [*acknowledged, *((answer, answer.told["parameters"]["revision"]) for answer in asked)]:
        known[_whose(answer)].append((answer.ended, revision))
    times, highest = dict[Whose, list[float]](), dict[Whose, list[int]]()
    for whose, events in known.items():
        events.sort()
        times[whose] = [moment for moment, _ in events]
        highest[whose] = list(itertools.accumulate((revision for _, revision in events), max))
    found = 0
    for answer in asked:
        before = bisect.bisect_left(times[_whose(answer)], answer.began)
        found += before > 0 and answer.told["parameters"]["revision"] < highest[_whose(answer)][before - 1]
    return found


def _is_torn(kept: Mapping[int, Kept], deleted: bool) -> bool:
    numbers = sorted(kept)
    first = numbers[0] if deleted else 1
    parents = [None, *(kept[number].digest for number in numbers[:-1])]
    return numbers != [*range(first, first + len(numbers))] or [kept[number].parent for number in numbers] != parents


def _times_put(history: History, whose: Whose, digest: str | None) -> int:
    """How often a digest became the newest, but for being gone back to."""
    return sum(entry.digest == digest and entry.action == "put" for entry in history.get(whose, {}).values())
