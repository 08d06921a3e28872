"""What deletions explain, and what came back in spite of them. Jobs are looked at as well: their users are deleted while they run.

    lost        a revision that was acknowledged is gone, or its user is not found, and no deletion can have been the reason
    revived     after a deletion: a number that was given before it, an open job of before it, or a revision that such a job made;
                a job that was told to have ended and goes on
    lineage     a job's revision whose parent is not the one that it began from, by its own word or because that one is younger than the job
    abandoned   a job that was called lost though nobody was killed

A deletion that was answered with 404 deleted nothing, so what was there before it must be gone as well. One that was not answered, or
with 503, may have been done: it explains that something is gone, and proves nothing.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from bench.faults.crowd import Answer
from isoform.runtime import Signature

__all__ = ["Deletions", "History", "Kept", "Whose"]

Whose = tuple[str, str]
"""Task and name."""
OPEN = ("queued", "running")


@dataclasses.dataclass(frozen=True)
class Kept:
    """A revision as the store holds it, or held it."""

    digest: str
    parent: str | None
    action: str
    data: bytes | None


History = Mapping[Whose, Mapping[int, Kept]]
"""(task, user) → revision → what it is."""


class Deletions:
    """Every deletion that was asked for, and every job.

    Args:
        answers: What clients were told.
        history: What the store holds after the end.
        seen: What it was seen to hold meanwhile.
    """

    def __init__(self, answers: Sequence[Answer], history: History, seen: History) -> None:
        self._history, self._seen, self._answers = history, seen, answers
        self._tried, self._done = collections.defaultdict(list), collections.defaultdict(list)
        self._jobs = collections.defaultdict[str, list[Answer]](list)
        self._told = collections.defaultdict[Whose, list[tuple[Answer, int]]](list)
        for answer in answers:
            if answer.kind == "delete" and answer.status in (0, 204, 503):
                self._tried[answer.whose].append(answer)
            if answer.kind == "delete" and answer.status in (204, 404):
                self._done[answer.whose].append(answer)
            if "state" in answer.told:
                self._jobs[answer.told["id"]].append(answer)
            number = answer.predicted or answer.acknowledged
            if number:
                self._told[answer.whose].append((answer, number))
        for entries in self._jobs.values():
            entries.sort(key=lambda answer: answer.ended)

    def may_explain(self, whose: Whose, *, since: float, until: float = float("inf")) -> bool:
        """Whether a deletion may have been done after ``since`` began and before ``until``."""
        return any(tried.ended > since and tried.began < until for tried in self._tried[whose])

    def lost(self, acknowledged: Iterable[tuple[Answer, int]]) -> int:
        """Revisions that are gone, or were not found, for no reason."""
        gone, firsts = 0, collections.defaultdict[Whose, list[Answer]](list)
        for answer, number in acknowledged:
            if answer.kind in ("put", "rollback"):
                firsts[answer.whose].append(answer)
            kept = self._history.get(answer.whose, {}).get(number)
            if kept is None or kept.digest != answer.told.get("digest", kept.digest):
                # A job says for ever that it is done, also after its user was deleted.
                first = self._jobs[answer.told["id"]][0] if "state" in answer.told else answer
                gone += not self.may_explain(answer.whose, since=first.began)
        for answer in self._answers:
            if answer.kind == "predict" and answer.status == 404:
                before = [first.began for first in firsts[answer.whose] if first.ended < answer.began]
                since = max(before, default=float("-inf"))  # everybody has a revision at the beginning
                gone += not self.may_explain(answer.whose, since=since, until=answer.ended)
        return gone

    def revived(self) -> int:
        """What came back."""
        return sum(map(self._revived_user, list(self._done))) + sum(map(self._revived_job, self._jobs.values()))

    def _revived_user(self, whose: Whose) -> int:
        found = set[object]()
        for deletion in self._done[whose]:
            before = max((n for answer, n in self._told[whose] if answer.ended < deletion.began), default=0)
            found.update(number for number in self._history.get(whose, {}) if number <= before)
            for answer, number in self._told[whose]:
                made = answer.kind in ("predict", "put", "rollback")  # a job that is done says so for ever
                if made and answer.began > deletion.ended and number <= before and "replayed" not in answer.told:
                    found.add(id(answer))
            for job in self._jobs.values():
                if job[0].whose != whose or job[0].ended >= deletion.began:
                    continue
                late = [answer for answer in job if answer.began > deletion.ended]
                found.update(id(answer) for answer in late if answer.told["state"] in OPEN)
                number = job[-1].acknowledged
                if (
                    number
                    and job[-1].told["revision"] in self._history.get(whose, {})
                    and _made_one(job, self._history[whose])
                ):
                    found.add(number)
        return len(found)

    def _revived_job(self, told: Sequence[Answer]) -> int:
        ended = next((answer for answer in told if answer.told["state"] not in OPEN), None)
        if ended is None:
            return 0
        return any(answer.began > ended.ended and answer.told["state"] != ended.told["state"] for answer in told)

    def lineage(self, bases: Mapping[str, str]) -> int:
        """Wrong parents.

        Args:
            bases: Task → its base signature's digest.
        """
        wrong = set[tuple[Whose, int]]()
        for history in (self._history, self._seen):
            for whose, kept in history.items():
                for number, entry in kept.items():
                    if entry.action in ("personalize", "adapt") and entry.data is not None:
                        began = entry.parent or bases[whose[0]]
                        if Signature.decode(entry.data).parent != began:
                            wrong.add((whose, number))
        written = {
            (answer.whose, number): answer
            for whose in self._told
            for answer, number in self._told[whose]
            if answer.kind in ("put", "rollback")
        }
        for job in self._jobs.values():
            number = job[-1].acknowledged
            kept = self._seen.get(job[0].whose, {}) | self._history.get(job[0].whose, {})  # type: ignore[operator]
            if number and job[0].kind in ("personalize", "adapt") and _made_one(job, kept):
                parent = written.get((job[0].whose, number - 1))
                if parent is not None and parent.began > job[0].ended:
                    wrong.add((job[0].whose, number))
        return len(wrong)

    def abandoned(self, *, kills: int) -> int:
        """Jobs that were called lost though nobody was killed."""
        return 0 if kills else sum(any(a.told["state"] == "lost" for a in told) for told in self._jobs.values())


def _made_one(job: Sequence[Answer], kept: Mapping[int, Kept]) -> bool:
    """Whether the revision that a job names is its own work, and not what was there before and is no worse."""
    entry = kept.get(job[-1].told["revision"])
    return entry is not None and entry.action == job[-1].told["action"]
