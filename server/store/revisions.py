"""Operations on revisions within a transaction: append, roll back, delete, and idempotent replies. No HTTP here.

Revision numbers never restart, not even after ``delete``, so that a number, an ETag or an idempotency key never refers to two revisions.
Callers of functions that write must hold the user's lock (``Store.writing(task, user)``), so that what they read cannot change before
the commit.
"""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from isoform.runtime.errors import ConflictError
from isoform.server.store.schema import events, jobs, numbers, replies, revisions

__all__ = [
    "ANY", "DATA", "KEEP", "LISTED", "NEWEST", "ONE", "OPEN", "Reply", "Revision", "append", "check", "clock", "delete", "locked_jobs",
    "moment", "newest", "replied", "revision_of", "rollback",
]  # fmt: skip

ANY = -1
"""Value of ``expect`` without a precondition: append to whatever is newest."""
KEEP = 100
"""Revisions per user whose bytes are kept."""
REPLY_DAYS = 7
"""How long an idempotency key is remembered."""
OPEN = ("queued", "running")
"""States of a job that may still change."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Revision:
    """One revision of one user's signature."""

    task: str
    user: str
    revision: int
    """Number from 1, never reused after a deletion."""
    digest: str
    """Digest of the signature, 64 hex digits."""
    parent: str | None
    """Digest of the previous revision; None for the first one, and for the first after a deletion."""
    action: str
    """``put``, ``personalize``, ``adapt`` or ``rollback``."""
    actor: str
    """Name of the caller."""
    created: int
    """Milliseconds since 1970, UTC, by the database's clock."""
    kept: bool
    """Whether its bytes are still there."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """The idempotency key of a request, with what identifies a retry."""

    key: str
    """The client's idempotency key."""
    fingerprint: bytes
    """sha256 of the request, 32 bytes: the same key with another request is refused."""
    sender: str
    """Unique id of the caller; names are not unique."""


_COLUMNS = [column for column in revisions.c if column.name != "data"]
LISTED = sql.select(*_COLUMNS, revisions.c.data.is_not(None).label("kept"))
"""A revision's columns, and whether its bytes are kept."""
_HERE = (revisions.c.task == sql.bindparam("task"), revisions.c.user == sql.bindparam("user"))
_NUMBERED = (*_HERE, revisions.c.revision == sql.bindparam("revision"))
NEWEST = LISTED.where(*_HERE).order_by(revisions.c.revision.desc()).limit(1)
ONE = LISTED.where(*_NUMBERED)
DATA = sql.select(revisions.c.data).where(*_NUMBERED)
_LAST = sql.select(numbers.c.last).where(
    numbers.c.task == sql.bindparam("task"), numbers.c.user == sql.bindparam("user")
)
# Names with b_, because SQLAlchemy reserves the columns' own names for the SET clause of an UPDATE.
_FORGET = (
    sql.update(revisions)
    .where(
        revisions.c.task == sql.bindparam("b_task"), revisions.c.user == sql.bindparam("b_user"),
        revisions.c.revision <= sql.bindparam("b_revision"), revisions.c.data.is_not(None),
    )
    .values(data=None)
)  # fmt: skip
# Not SQL's now(): in PostgreSQL that is the start of the transaction, before it waited for locks.
_CLOCK = sql.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")


def newest(connection: Connection, task: str, user: str) -> Revision | None:
    """A user's newest revision; None if there is none."""
    row = connection.execute(NEWEST, {"task": task, "user": user}).first()
    return None if row is None else revision_of(row)


def check(connection: Connection, task: str, user: str, *, expect: int, digest: str | None = None) -> Revision | None:
    """Check and return the newest revision.

    Args:
        connection: A transaction that holds the user's lock.
        task: Name of the task.
        user: Name of the user.
        expect: Number that the newest revision must have, 0 for none, ``ANY`` for any.
        digest: Digest that it must have as well: a store that was restored from a backup may give a number again.

    Raises:
        ConflictError: If the newest revision is another one.
    """
    found = newest(connection, task, user)
    number = found.revision if found is not None else 0
    if expect == ANY:
        return found
    if expect != number or (found is not None and digest not in (None, found.digest)):
        raise ConflictError(
            f"the newest revision of {task}/{user} is {number}, but {expect} was expected; read it and decide again"
        )
    return found


def append(
    connection: Connection, task: str, user: str, *, digest: str, data: bytes, action: str, actor: str, expect: int = ANY,
    reply: Reply | None = None, keep: int = KEEP,
) -> Revision:  # fmt: skip
    """Append a revision. Arguments and errors are those of ``Store.append``."""
    before = check(connection, task, user, expect=expect)
    last = connection.execute(_LAST, {"task": task, "user": user}).scalar() or 0  # of a user deleted before
    made = Revision(
        task=task, user=user, revision=max(last, before.revision if before else 0) + 1, digest=digest,
        parent=before.digest if before else None, action=action, actor=actor, created=clock(connection), kept=True,
    )  # fmt: skip
    connection.execute(
        sql.insert(revisions),
        {
            "task": task, "user": user, "revision": made.revision, "digest": bytes.fromhex(digest),
            "parent": bytes.fromhex(made.parent) if made.parent else None, "action": action, "actor": actor,
            "created": made.created, "data": data,
        },
    )  # fmt: skip
    if made.revision > keep:  # drop the bytes of old revisions; their rows stay for the history
        old = {"task": task, "user": user, "revision": made.revision - keep}
        connection.execute(_FORGET, {f"b_{name}": value for name, value in old.items()})
    if reply is not None:
        connection.execute(sql.delete(replies).where(replies.c.created < made.created - REPLY_DAYS * 86_400_000))
        connection.execute(
            sql.insert(replies),
            {
                "actor": reply.sender, "key": reply.key, "fingerprint": reply.fingerprint, "task": task, "user": user,
                "revision": made.revision, "created": made.created,
            },
        )  # fmt: skip
    return made


def rollback(
    connection: Connection, task: str, user: str, *, to: int, actor: str, expect: int = ANY, reply: Reply | None = None, keep: int = KEEP,
) -> Revision | None:  # fmt: skip
    """Append an earlier revision's bytes; None if they are not kept. Arguments and errors are those of ``Store.rollback``."""
    place = {"task": task, "user": user, "revision": to}
    row, data = connection.execute(ONE, place).first(), connection.execute(DATA, place).scalar()
    if row is None or data is None:
        return None
    return append(
        connection, task, user, digest=revision_of(row).digest, data=bytes(data), action="rollback", actor=actor, expect=expect,
        reply=reply, keep=keep,
    )  # fmt: skip


def delete(connection: Connection, task: str, user: str, *, actor: str, expect: int = ANY) -> bool:
    """Delete a user's revisions and cancel open jobs. Arguments, result and errors are those of ``Store.delete``.

    Idempotency keys are kept: a retried write must not bring the user back.
    """
    before = check(connection, task, user, expect=expect)
    mine = (jobs.c.task == task, jobs.c.user == user, jobs.c.state.in_(OPEN))
    if not locked_jobs(connection, *mine) and before is None:
        return False
    now = clock(connection)
    cancelled = {"state": "cancelled", "message": "the signature was deleted", "updated": now}
    connection.execute(sql.update(jobs).where(*mine).values(**cancelled))
    if before is not None:
        connection.execute(sql.delete(revisions).where(revisions.c.task == task, revisions.c.user == user))
        last = connection.execute(_LAST, {"task": task, "user": user}).scalar()
        connection.execute(sql.delete(numbers).where(numbers.c.task == task, numbers.c.user == user))
        connection.execute(sql.insert(numbers), {"task": task, "user": user, "last": max(last or 0, before.revision)})
    happened = {
        "actor": actor, "action": "delete", "task": task, "user": user, "revision": before.revision if before else None,
    }  # fmt: skip
    connection.execute(sql.insert(events), {**happened, "created": now})
    return True


def replied(connection: Connection, reply: Reply) -> Revision | None:
    """The revision made by an earlier request with the same idempotency key. Result and errors are those of ``Store.replied``."""
    where = (replies.c.actor == reply.sender, replies.c.key == reply.key)
    row = connection.execute(sql.select(replies).where(*where)).first()
    if row is None:
        return None
    if bytes(row.fingerprint) != reply.fingerprint:
        raise ConflictError(f"the idempotency key {reply.key!r} was used for another request; choose a new one")
    found = connection.execute(ONE, {"task": row.task, "user": row.user, "revision": row.revision}).first()
    if found is None:
        raise ConflictError(
            f"revision {row.revision} of {row.task}/{row.user}, made with the idempotency key {reply.key!r}, was deleted; choose a new key"
        )
    return revision_of(found)


def locked_jobs(
    connection: Connection, *where: sql.ColumnElement[bool], skip: bool = False, limit: int | None = None
) -> list[str]:
    """Lock jobs until the transaction ends, and return their ids. They are locked in order of id, so that transactions cannot deadlock.

    Args:
        connection: A transaction.
        *where: Conditions that select the jobs.
        skip: Skip jobs that another transaction has locked, instead of waiting for it.
        limit: Most jobs to lock; None for all.
    """
    # SQLAlchemy leaves FOR UPDATE out for SQLite, which has one write transaction at a time anyway.
    query = sql.select(jobs.c.id).where(*where).order_by(jobs.c.id).limit(limit).with_for_update(skip_locked=skip)
    return list(connection.execute(query).scalars())


def clock(connection: Connection) -> int:
    """The database's clock, in milliseconds since 1970, UTC: this machine's for SQLite. The clocks of several servers differ."""
    if connection.dialect.name != "postgresql":
        return time.time_ns() // 1_000_000
    return int(connection.execute(_CLOCK).scalar_one())


def revision_of(row: Any) -> Revision:
    """The revision in a row of ``LISTED``'s columns, in their order."""
    # By position: rows that ``Database.first`` reads straight from the driver are tuples without names.
    task, user, revision, digest, parent, action, actor, created, kept = row
    return Revision(
        task=task, user=user, revision=revision, digest=bytes(digest).hex(), parent=bytes(parent).hex() if parent is not None else None,
        action=action, actor=actor, created=created, kept=bool(kept),
    )  # fmt: skip


def moment(milliseconds: int) -> str:
    """A time in milliseconds since 1970 as ISO 8601, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
