"""Jobs in the database, so that any process can show and cancel them.

    queued → running → done | failed;      queued or running → cancelled | lost

The process that runs a job sends a heartbeat every few seconds (``tell``). When a job without a heartbeat for ``LOST_SECONDS`` is read,
it is marked as doubted. If it is still silent half as long again, it is lost, permanently: its process has died, or cannot reach the
database. An outage of the database itself loses no job, because the doubt starts when the database is back. A job's result is appended
in the transaction that ends the job (``complete``), and only if the job is still open and starts from the newest revision. Samples are
never stored.
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
"""Time without a heartbeat after which a job is doubted."""
KEEP_DAYS = 7
"""How long jobs are kept after they last changed."""
FORGET = 500
"""Most old jobs deleted with a new one: it bounds the values of a statement, and the time that the new job waits."""
MESSAGE = 400
"""Longest message, in characters; the size of its column."""


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
    """Steps done."""
    steps: int
    """Maximum number of steps, 0 while unknown; equal to ``step`` once the job is done."""
    revision: int | None
    """The resulting revision, or the one it started from if there was no improvement; None before the job is done."""
    message: str | None
    """The result or the error, in one line; None while the job is open."""
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
        """Store a new job, and delete old ones.

        Args:
            task: Name of the task.
            user: User whose signature is learned.
            action: ``personalize`` or ``adapt``.
            actor: Name of the caller.
            expect: Number of the revision that must be the newest, 0 for none, ``ANY`` for any.

        Raises:
            ConflictError: If another revision is the newest.
        """
        with self._store.writing(task, user) as connection:
            check(connection, task, user, expect=expect)
            moment = clock(connection)
            old = moment - KEEP_DAYS * 86_400_000
            # Without those that are locked: a new job must not wait for a transaction on an old one.
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
        """A job by its id; None if it does not exist or was deleted."""
        return next(iter(self._found(sql.select(jobs).where(jobs.c.id == identity))), None)

    def listed(self, task: str, user: str, *, limit: int = 100) -> list[Job]:
        """List a user's jobs, newest first."""
        query = sql.select(jobs).where(jobs.c.task == task, jobs.c.user == user)
        return self._found(query.order_by(jobs.c.created.desc()).limit(limit))

    def tell(self, progress: Mapping[str, tuple[int, int] | None]) -> set[str]:
        """Send a heartbeat for jobs, with their progress.

        Args:
            progress: Id of a job → steps done and maximum steps; None while it is queued.

        Returns:
            Ids of jobs that are still open; the others were cancelled or lost.
        """
        going = set()
        with self._store.writing() as connection:
            moment = clock(connection)
            for identity in sorted(progress):  # the lock order of ``locked_jobs``, against deadlocks
                found = progress[identity]
                values = {} if found is None else {"state": "running", "step": found[0], "steps": found[1]}
                if connection.execute(_still_open(identity).values(**values, updated=moment)).rowcount:
                    going.add(identity)
        return going

    def complete(self, job: Job, *, begun: tuple[int, str], digest: str, data: bytes, message: str, steps: int) -> None:
        """Mark a job as done and append its result, in one transaction. Idempotent.

        Nothing happens if the job is no longer open: it was cancelled, its user was deleted, or an earlier call ended it.

        Args:
            job: The job.
            begun: Number and digest of the revision from which it started; 0 and the base signature's digest if there was none.
            digest: Digest of the result; nothing is appended if it equals the digest in ``begun``.
            data: The result's signature file.
            message: The result in one line.
            steps: Steps done.

        Raises:
            ConflictError: If the newest revision is not the one from which the job started; the job stays open.
        """
        with self._store.writing(job.task, job.user) as connection:
            ended = {"state": "done", "step": steps, "steps": steps, "message": message[:MESSAGE], "revision": begun[0]}
            # The update comes first because it locks the row: a cancellation came before it, or finds the job ended.
            if not connection.execute(_still_open(job.id).values(**ended, updated=clock(connection))).rowcount:
                return
            if digest == begun[1]:  # no improvement: done, without a new revision
                return
            # By digest too: a store that was restored from a backup may give a number again.
            check(connection, job.task, job.user, expect=begun[0], digest=begun[1])
            made = append(
                connection, job.task, job.user, digest=digest, data=data, action=job.action, actor=job.actor,
                expect=begun[0], keep=self._store.keep,
            )  # fmt: skip
            connection.execute(sql.update(jobs).where(jobs.c.id == job.id).values(revision=made.revision))

    def fail(self, identity: str, *, message: str, step: int, steps: int) -> None:
        """Mark a job as failed; nothing happens if it is no longer open."""
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
        with contextlib.suppress(ConflictError):  # another request is marking it as doubted
            lost = {job.id: job for job in self._lost(silent)}
        return [lost.get(job.id, job) for job in found]

    def _lost(self, silent: Sequence[Job]) -> list[Job]:
        """Mark silent jobs as doubted, and as lost those that were doubted for long enough. Returns the lost ones."""
        found = []
        with self._store.writing() as connection:
            moment = clock(connection)
            for job in sorted(silent, key=lambda job: job.id):
                doubt = connection.execute(sql.select(doubts).where(doubts.c.job == job.id)).first()
                # Another ``updated`` means a heartbeat since that doubt, so a new one begins.
                since = moment if doubt is None or doubt.updated != job.updated else doubt.since
                if since == moment:
                    connection.execute(sql.delete(doubts).where(doubts.c.job == job.id))
                    connection.execute(sql.insert(doubts), {"job": job.id, "updated": job.updated, "since": moment})
                if moment - since > LOST_SECONDS * 500:  # half of LOST_SECONDS, in milliseconds
                    seconds = (moment - job.updated) // 1000
                    message = f"no heartbeat for {seconds} s: the job's process has died or cannot reach the store; send it again"
                    # Only if it is still silent: a heartbeat since the read saves the job.
                    query = _still_open(job.id).where(jobs.c.updated == job.updated)
                    if connection.execute(query.values(state="lost", message=message)).rowcount:
                        found.append(dataclasses.replace(job, state="lost", message=message))
        return found


def _still_open(identity: str) -> sql.Update:
    return sql.update(jobs).where(jobs.c.id == identity, jobs.c.state.in_(OPEN))
