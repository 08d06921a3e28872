"""Jobs as the database knows them, so that any process can say how one is, and stop it.

    queued → running → done | failed;      queued or running → cancelled

The process that works on a job touches it at least every few seconds. One that was not touched for ``LOST_SECONDS`` is lost: its
process died, and what it was asked is asked again. Samples are never kept.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sql

from isoform.server.store.schema import jobs
from isoform.server.store.store import Store, now

__all__ = ["Job", "Ledger"]

LOST_SECONDS = 30
KEEP_DAYS = 7
_OPEN = ("queued", "running")


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
    steps: int
    """At most so many; 0 while it is not known."""
    revision: int | None
    """What it made, or what was there before and is no worse; None before it is done."""
    message: str | None
    """What came of it, in a line."""
    created: int
    updated: int
    """Milliseconds since 1970, UTC."""

    @property
    def open(self) -> bool:
        """Whether it may still change."""
        return self.state in _OPEN


class Ledger:
    """The jobs of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, task: str, user: str, *, action: str, actor: str) -> Job:
        """Write a new job down. Those that ended long ago are forgotten."""
        moment = now()
        job = Job(
            id=uuid.uuid4().hex, task=task, user=user, action=action, actor=actor, state="queued", step=0, steps=0, revision=None,
            message=None, created=moment, updated=moment,
        )  # fmt: skip
        with self._store.writing() as connection:
            connection.execute(sql.delete(jobs).where(jobs.c.updated < moment - KEEP_DAYS * 86_400_000))
            connection.execute(sql.insert(jobs), dataclasses.asdict(job))
        return job

    def find(self, identity: str) -> Job | None:
        """A job; None if there is none, or it was forgotten."""
        with self._store.reading() as connection:
            row = connection.execute(sql.select(jobs).where(jobs.c.id == identity)).first()
        return None if row is None else _job(row)

    def listed(self, task: str, user: str, *, limit: int = 100) -> list[Job]:
        """A user's jobs, newest first."""
        query = sql.select(jobs).where(jobs.c.task == task, jobs.c.user == user)
        with self._store.reading() as connection:
            return [_job(row) for row in connection.execute(query.order_by(jobs.c.created.desc()).limit(limit)).all()]

    def touch(self, identity: str, *, step: int = 0, steps: int = 0) -> bool:
        """Say that a job is being worked on, and how far it is.

        Returns:
            Whether to go on: False if it was cancelled.
        """
        return self._change(identity, state="running", step=step, steps=steps)

    def alive(self, identities: Iterable[str]) -> None:
        """Say that jobs are not lost, though nobody may have begun them yet."""
        with self._store.writing() as connection:
            open_ones = (jobs.c.id.in_(list(identities)), jobs.c.state.in_(_OPEN))
            connection.execute(sql.update(jobs).where(*open_ones).values(updated=now()))

    def finish(self, identity: str, *, state: str, message: str, revision: int | None = None) -> None:
        """Say what came of a job; nothing happens if it was cancelled."""
        self._change(identity, state=state, message=message[:400], revision=revision)

    def cancel(self, identity: str) -> bool:
        """Cancel a job. Returns whether it was still open."""
        return self._change(identity, state="cancelled", message="cancelled")

    def _change(self, identity: str, **values: Any) -> bool:
        with self._store.writing() as connection:
            query = (
                sql.update(jobs).where(jobs.c.id == identity, jobs.c.state.in_(_OPEN)).values(**values, updated=now())
            )
            return bool(connection.execute(query).rowcount)


def _job(row: Any) -> Job:
    fields = dict(row._mapping)
    if fields["state"] in _OPEN and now() - fields["updated"] > LOST_SECONDS * 1000:
        fields |= {"state": "lost", "message": "the process that worked on it ended; send it again"}
    return Job(**fields)
