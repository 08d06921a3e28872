"""Revisions within a transaction: append, go back, delete, and what an idempotency key made. Knows a connection, and no HTTP.

Numbers never restart, not even after ``delete``, so that a number, an ETag or an idempotency key never means two things. Whoever calls
a function that writes holds the user's lock (``Store.writing(task, user)``): what it reads stays true until it commits.
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
    "moment", "newest", "now", "replied", "revision_of", "rollback",
]  # fmt: skip

ANY = -1
"""Expect nothing: append to whatever is newest."""
KEEP = 100
"""Revisions of one user whose bytes are kept."""
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
    """From 1; never one that the user had before a deletion."""
    digest: str
    """The signature's, 64 hex digits."""
    parent: str | None
    """Digest of the revision that was newest before it; None for the first, and the first after a deletion."""
    action: str
    """``put``, ``personalize``, ``adapt`` or ``rollback``."""
    actor: str
    """Whose key it was."""
    created: int
    """Milliseconds since 1970, UTC."""
    kept: bool
    """Whether its bytes are still there."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """What makes a request the same as an earlier one."""

    key: str
    """The idempotency key that its sender chose."""
    fingerprint: bytes
    """sha256 of what it asked for, 32 bytes: the same key with another one is refused."""
    sender: str
    """Who sent it, by id, because two actors may have the same name."""


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
_FORGET = (
    sql.update(revisions)
    .where(
        revisions.c.task == sql.bindparam("b_task"), revisions.c.user == sql.bindparam("b_user"),
        revisions.c.revision <= sql.bindparam("b_revision"), revisions.c.data.is_not(None),
    )
    .values(data=None)
)  # fmt: skip
_CLOCK = sql.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")


def newest(connection: Connection, task: str, user: str) -> Revision | None:
    """The revision that answers for a user; None if there is none."""
    row = connection.execute(NEWEST, {"task": task, "user": user}).first()
    return None if row is None else revision_of(row)


def check(connection: Connection, task: str, user: str, *, expect: int, digest: str | None = None) -> Revision | None:
    """The newest revision.

    Args:
        connection: A transaction that holds the user's lock.
        task: The task.
        user: The user.
        expect: The number that it must have, 0 for none; ``ANY`` for whatever it has.
        digest: The digest that it must have, where a number is expected: a store that was restored may give a number again.

    Raises:
        ConflictError: If it has another.
    """
    found = newest(connection, task, user)
    number = found.revision if found is not None else 0
    if expect == ANY:
        return found
    if expect != number or (found is not None and digest not in (None, found.digest)):
        raise ConflictError(
            f"{task}/{user} is at revision {number}, but {expect} was expected; read it again and decide anew"
        )
    return found


def append(
    connection: Connection, task: str, user: str, *, digest: str, data: bytes, action: str, actor: str, expect: int = ANY,
    reply: Reply | None = None, keep: int = KEEP,
) -> Revision:  # fmt: skip
    """Make a new newest revision. Arguments and errors are those of ``Store.append``."""
    before = check(connection, task, user, expect=expect)
    last = connection.execute(_LAST, {"task": task, "user": user}).scalar() or 0
    made = Revision(
        task=task, user=user, revision=max(last, before.revision if before else 0) + 1, digest=digest,
        parent=before.digest if before else None, action=action, actor=actor, created=now(), kept=True,
    )  # fmt: skip
    connection.execute(
        sql.insert(revisions),
        {
            "task": task, "user": user, "revision": made.revision, "digest": bytes.fromhex(digest),
            "parent": bytes.fromhex(made.parent) if made.parent else None, "action": action, "actor": actor,
            "created": made.created, "data": data,
        },
    )  # fmt: skip
    if made.revision > keep:
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
    """Append an earlier revision's bytes; None if they are not there. Arguments and errors are those of ``Store.rollback``."""
    place = {"task": task, "user": user, "revision": to}
    row, data = connection.execute(ONE, place).first(), connection.execute(DATA, place).scalar()
    if row is None or data is None:
        return None
    return append(
        connection, task, user, digest=revision_of(row).digest, data=bytes(data), action="rollback", actor=actor, expect=expect,
        reply=reply, keep=keep,
    )  # fmt: skip


def delete(connection: Connection, task: str, user: str, *, actor: str, expect: int = ANY) -> bool:
    """Delete a user's revisions and cancel the open jobs. Arguments, result and errors are those of ``Store.delete``.

    What idempotency keys made is remembered: a write that is sent again must not bring the user back.
    """
    before = check(connection, task, user, expect=expect)
    mine = (jobs.c.task == task, jobs.c.user == user, jobs.c.state.in_(OPEN))
    if not locked_jobs(connection, *mine) and before is None:
        return False
    cancelled = {"state": "cancelled", "message": "the signature was deleted", "updated": clock(connection)}
    connection.execute(sql.update(jobs).where(*mine).values(**cancelled))
    if before is not None:
        connection.execute(sql.delete(revisions).where(revisions.c.task == task, revisions.c.user == user))
        last = connection.execute(_LAST, {"task": task, "user": user}).scalar()
        connection.execute(sql.delete(numbers).where(numbers.c.task == task, numbers.c.user == user))
        connection.execute(sql.insert(numbers), {"task": task, "user": user, "last": max(last or 0, before.revision)})
    happened = {
        "actor": actor, "action": "delete", "task": task, "user": user, "revision": before.revision if before else None,
    }  # fmt: skip
    connection.execute(sql.insert(events), {**happened, "created": now()})
    return True


def replied(connection: Connection, reply: Reply) -> Revision | None:
    """What an earlier request with the same idempotency key made. Result and errors are those of ``Store.replied``."""
    where = (replies.c.actor == reply.sender, replies.c.key == reply.key)
    row = connection.execute(sql.select(replies).where(*where)).first()
    if row is None:
        return None
    if bytes(row.fingerprint) != reply.fingerprint:
        raise ConflictError(f"the idempotency key {reply.key!r} came with another request before; choose a new one")
    found = connection.execute(ONE, {"task": row.task, "user": row.user, "revision": row.revision}).first()
    if found is None:
        raise ConflictError(
            f"revision {row.revision} of {row.task}/{row.user}, which the idempotency key {reply.key!r} made, is deleted; choose a new key"
        )
    return revision_of(found)


def locked_jobs(
    connection: Connection, *where: sql.ColumnElement[bool], skip: bool = False, limit: int | None = None
) -> list[str]:
    """Ids of jobs, locked until the transaction ends, always in the same order, so that no two transactions wait for each other.

    Args:
        connection: A transaction.
        *where: Which jobs.
        skip: Leave out those that another transaction holds, instead of waiting for it.
        limit: At most so many; None for all.
    """
    query = sql.select(jobs.c.id).where(*where).order_by(jobs.c.id).limit(limit).with_for_update(skip_locked=skip)
    return list(connection.execute(query).scalars())


def clock(connection: Connection) -> int:
    """The time by the database's clock, in milliseconds since 1970: clocks of several machines differ."""
    if connection.dialect.name != "postgresql":
        return now()
    return int(connection.execute(_CLOCK).scalar_one())


def revision_of(row: Any) -> Revision:
    """The revision in a row of ``LISTED``'s columns, in their order."""
    task, user, revision, digest, parent, action, actor, created, kept = row
    return Revision(
        task=task, user=user, revision=revision, digest=bytes(digest).hex(), parent=bytes(parent).hex() if parent is not None else None,
        action=action, actor=actor, created=created, kept=bool(kept),
    )  # fmt: skip


def moment(milliseconds: int) -> str:
    """A time of the store's, ISO 8601, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def now() -> int:
    """Milliseconds since 1970, UTC, by this machine's clock."""
    return time.time_ns() // 1_000_000
