"""Jobs as the database knows them, so that any process can say how one is, and stop it.

    queued → running → done | failed;      queued or running → cancelled | lost

The process that works on a job says so every few seconds (``tell``). A job that was silent for ``LOST_SECONDS`` is doubted by whoever
asks for it; if it is as silent half as long again, it is lost, for good: its process has ended, or cannot reach the database. A
database that was away itself makes no job lost, because the doubt begins when it is back. What a job learned is appended in the
transaction that ends the job (``complete``), and only if the job is open and begins where the user still is. Samples are never kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sql

from isoform.runtime.errors import ConflictError
from isoform.server.store.revisions import OPEN, append, check, clock, locked_jobs
from isoform.server.store.schema import doubts, jobs
from isoform.server.store.store import Store

__all__ = ["Job", "Ledger"]

LOST_SECONDS = 30
KEEP_DAYS = 7
FORGET = 500
"""Old jobs that a new one removes at most: a database takes so many values in one statement, and no job waits for a week's removal."""
MESSAGE = 400
"""Longest message, in characters."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One job, as it was when it was read."""

    id: str
    task: str
    user: str
    action: str
    """``personalize`` or ``adapt``."""
    actor: str
    state: str
    """``queued``, ``running``, ``done``, ``failed``, ``cancelled`` or ``lost``."""
    step: int
    """How far it is, or was when it ended."""
    steps: int
    """At most so many, 0 while it is not known; as many as ``step`` once it is done."""
    revision: int | None
    """What it made, or what was there before and is no worse; None before it is done."""
    message: str | None
    """What came of it, in a line."""
    created: int
    updated: int
    """Milliseconds since 1970, UTC, by the database's clock."""

    @property
    def open(self) -> bool:
        """Whether it may still change."""
        return self.state in OPEN


class Ledger:
    """The jobs of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, task: str, user: str, *, action: str, actor: str, expect: int) -> Job:
        """Write a new job down. Those that ended long ago are forgotten.

        Args:
            task: The task.
            user: Whose signature.
            action: ``personalize`` or ``adapt``.
            actor: Whose key it was.
            expect: The number of the revision that must be newest, 0 for none; ``ANY`` for whatever is.

        Raises:
            ConflictError: If another is.
        """
        with self._store.writing(task, user) as connection:
            check(connection, task, user, expect=expect)
            moment = clock(connection)
            old = moment - KEEP_DAYS * 86_400_000
            forgotten = locked_jobs(connection, jobs.c.updated < old, skip=True, limit=FORGET)
            connection.execute(sql.delete(jobs).where(jobs.c.id.in_(forgotten)))
            connection.execute(sql.delete(doubts).where(doubts.c.job.in_(forgotten)))
            job = Job(
                id=uuid.uuid4().hex, task=task, user=user, action=action, actor=actor, state="queued", step=0, steps=0,
                revision=None, message=None, created=moment, updated=moment,
            )  # fmt: skip
            connection.execute(sql.insert(jobs), dataclasses.asdict(job))
        return job

    def find(self, identity: str) -> Job | None:
        """A job; None if there is none, or it was forgotten."""
        return next(iter(self._found(sql.select(jobs).where(jobs.c.id == identity))), None)

    def listed(self, task: str, user: str, *, limit: int = 100) -> list[Job]:
        """A user's jobs, newest first."""
        query = sql.select(jobs).where(jobs.c.task == task, jobs.c.user == user)
        return self._found(query.order_by(jobs.c.created.desc()).limit(limit))

    def tell(self, progress: Mapping[str, tuple[int, int] | None]) -> set[str]:
        """Say that jobs are not lost, and how far they are.

        Args:
            progress: A job's id → steps done and steps at most; None while it waits for its turn.

        Returns:
            Those that go on; the others were cancelled, or given up as lost.
        """
        going = set()
        with self._store.writing() as connection:
            moment = clock(connection)
            for identity in sorted(progress):  # in the order of ``locked_jobs``
                found = progress[identity]
                values = {} if found is None else {"state": "running", "step": found[0], "steps": found[1]}
                if connection.execute(_still_open(identity).values(**values, updated=moment)).rowcount:
                    going.add(identity)
        return going

    def complete(self, job: Job, *, begun: tuple[int, str], digest: str, data: bytes, message: str, steps: int) -> None:
        """End a job well: append what it learned, in one transaction with its end. Doing it twice is doing it once.

        Nothing happens if the job is open no longer: it was cancelled, its user was deleted, or an earlier call ended it.

        Args:
            job: The job.
            begun: Number and digest of the revision that it began from; 0 and the base signature's digest where there was none.
            digest: Of what it learned; nothing is appended if it is what the job began from.
            data: Its file.
            message: What came of it.
            steps: Where it ended.

        Raises:
            ConflictError: If another revision is newest than the one that it began from; the job stays open.
        """
        with self._store.writing(job.task, job.user) as connection:
            ended = {"state": "done", "step": steps, "steps": steps, "message": message[:MESSAGE], "revision": begun[0]}
            if not connection.execute(_still_open(job.id).values(**ended, updated=clock(connection))).rowcount:
                return
            if digest == begun[1]:
                return
            check(connection, job.task, job.user, expect=begun[0], digest=begun[1])
            made = append(
                connection, job.task, job.user, digest=digest, data=data, action=job.action, actor=job.actor,
                expect=begun[0], keep=self._store.keep,
            )  # fmt: skip
            connection.execute(sql.update(jobs).where(jobs.c.id == job.id).values(revision=made.revision))

    def fail(self, identity: str, *, message: str, step: int, steps: int) -> None:
        """Say that a job failed, and where; nothing happens if it is open no longer."""
        self._end(identity, state="failed", message=message[:MESSAGE], step=step, steps=steps)

    def cancel(self, identity: str) -> bool:
        """Cancel a job. Returns whether it was still open."""
        return self._end(identity, state="cancelled", message="cancelled")

    def _end(self, identity: str, **values: Any) -> bool:
        with self._store.writing() as connection:
            return bool(connection.execute(_still_open(identity).values(**values, updated=clock(connection))).rowcount)

    def _found(self, query: sql.Select[Any]) -> list[Job]:
        silent = list[Job]()
        with self._store.reading() as connection:
            found = [Job(**row._mapping) for row in connection.execute(query)]
            if any(job.open for job in found):
                moment = clock(connection)
                silent = [job for job in found if job.open and moment - job.updated > LOST_SECONDS * 1000]
        if not silent:
            return found
        lost = dict[str, Job]()
        with contextlib.suppress(ConflictError):  # somebody else doubts it at the same moment
            lost = {job.id: job for job in self._lost(silent)}
        return [lost.get(job.id, job) for job in found]

    def _lost(self, silent: Sequence[Job]) -> list[Job]:
        """Doubt silent jobs; those that were doubted for long enough are lost from now on, also for the process that works on them."""
        found = []
        with self._store.writing() as connection:
            moment = clock(connection)
            for job in sorted(silent, key=lambda job: job.id):
                doubt = connection.execute(sql.select(doubts).where(doubts.c.job == job.id)).first()
                since = moment if doubt is None or doubt.updated != job.updated else doubt.since
                if since == moment:
                    connection.execute(sql.delete(doubts).where(doubts.c.job == job.id))
                    connection.execute(sql.insert(doubts), {"job": job.id, "updated": job.updated, "since": moment})
                if moment - since > LOST_SECONDS * 500:
                    seconds = (moment - job.updated) // 1000
                    message = f"its process was silent for {seconds} s: it has ended, or cannot reach the store; send it again"
                    query = _still_open(job.id).where(jobs.c.updated == job.updated)
                    if connection.execute(query.values(state="lost", message=message)).rowcount:
                        found.append(dataclasses.replace(job, state="lost", message=message))
        return found


def _still_open(identity: str) -> sql.Update:
    return sql.update(jobs).where(jobs.c.id == identity, jobs.c.state.in_(OPEN))
