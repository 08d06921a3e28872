"""Signatures of users: append a revision, look the newest up, go back, delete. Every call is one transaction.

What ``append`` returned is on the disk (SQLite: write-ahead log, synchronous; PostgreSQL: as it is set up): no crash loses it.
Two writers that began from the same revision: the second gets a ``ConflictError``. Knows no HTTP, and never looks into the bytes.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.engine import URL

from isoform.server.store import revisions as kept
from isoform.server.store.database import Database
from isoform.server.store.revisions import (
    ANY,
    DATA,
    KEEP,
    LISTED,
    NEWEST,
    ONE,
    Reply,
    Revision,
    moment,
    now,
    revision_of,
)
from isoform.server.store.schema import events, revisions, unloaded
from isoform.server.store.sqlite import Identity

__all__ = ["ANY", "Reply", "Revision", "Store", "moment", "now"]


class Store(Database):
    """An open database of signatures. Safe to use from several threads; each process opens its own. A context manager.

    Args:
        where: A file for SQLite, or a URL, as ``Database`` takes it.
        connections: At most so many at once for reading, and as many for writing.
        keep: Revisions of one user whose bytes are kept.
        create: Whether to make what is not there, as ``Database``.
        identity: The only SQLite file that is accepted, as ``Database``.

    Raises:
        StoreError: If the URL makes no sense, its driver is not installed, or the database cannot be reached.
    """

    def __init__(
        self, where: str | URL | Path, *, connections: int = 8, keep: int = KEEP, create: bool = True, identity: Identity | None = None,
    ) -> None:  # fmt: skip
        super().__init__(where, connections=connections, create=create, identity=identity)
        self.keep = keep

    def newest(self, task: str, user: str) -> Revision | None:
        """The revision that answers for a user; None if there is none."""
        row = self.first(NEWEST, {"task": task, "user": user})
        return None if row is None else revision_of(row)

    def data(self, task: str, user: str, revision: int) -> bytes | None:
        """A signature file's bytes; None if there is no such revision, or its bytes are no longer kept."""
        row = self.first(DATA, {"task": task, "user": user, "revision": revision})
        return None if row is None or row[0] is None else bytes(row[0])

    def append(
        self, task: str, user: str, *, digest: str, data: bytes, action: str, actor: str, expect: int = ANY,
        reply: Reply | None = None,
    ) -> Revision:  # fmt: skip
        """Make a new newest revision.

        Args:
            task: The task.
            user: The user.
            digest: Of the signature, 64 hex digits.
            data: Its file.
            action: What made it.
            actor: Whose key it was.
            expect: The revision that must be newest now, 0 for none; ``ANY`` for whatever is.
            reply: To be remembered with it, in the same transaction.

        Returns:
            The revision.

        Raises:
            ConflictError: If another revision is newest, or somebody else is faster.
            StoreError: If the database fails.
        """
        with self.writing(task, user) as connection:
            return kept.append(
                connection, task, user, digest=digest, data=data, action=action, actor=actor, expect=expect, reply=reply, keep=self.keep
            )  # fmt: skip

    def rollback(
        self, task: str, user: str, *, to: int, actor: str, expect: int = ANY, reply: Reply | None = None
    ) -> Revision | None:
        """Let an earlier revision's bytes be the newest one's again, if they are still there when it is written.

        Args:
            task: The task.
            user: The user.
            to: The earlier revision.
            actor: Whose key it was.
            expect: As for ``append``.
            reply: As for ``append``.

        Returns:
            The new revision; None if there is no such earlier one, or its bytes are no longer kept.

        Raises:
            ConflictError: As ``append``.
            StoreError: If the database fails.
        """
        with self.writing(task, user) as connection:
            return kept.rollback(connection, task, user, to=to, actor=actor, expect=expect, reply=reply, keep=self.keep)

    def replied(self, reply: Reply) -> Revision | None:
        """What an earlier request with the same idempotency key made; None if there was none.

        Raises:
            ConflictError: If that key came with another request, or what it made is deleted.
        """
        with self.reading() as connection:
            return kept.replied(connection, reply)

    def find(self, task: str, user: str, revision: int) -> Revision | None:
        """One revision; None if there is none of that number."""
        with self.reading() as connection:
            row = connection.execute(ONE, {"task": task, "user": user, "revision": revision}).first()
        return None if row is None else revision_of(row)

    def history(self, task: str, user: str, *, before: int | None = None, limit: int = 100) -> list[Revision]:
        """A user's revisions, newest first, at most ``limit``, all below ``before``."""
        query = LISTED.where(revisions.c.task == task, revisions.c.user == user)
        if before is not None:
            query = query.where(revisions.c.revision < before)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(revisions.c.revision.desc()).limit(limit)).all()
        return [revision_of(row) for row in rows]

    def users(self, task: str, *, after: str = "", limit: int = 100) -> list[Revision]:
        """Users of a task by name, at most ``limit``, all behind ``after``; of each the newest revision."""
        names = (
            sql.select(revisions.c.user, sql.func.max(revisions.c.revision).label("newest"))
            .where(revisions.c.task == task, revisions.c.user > after)
            .group_by(revisions.c.user)
            .order_by(revisions.c.user)
            .limit(limit)
            .subquery()
        )
        both = (revisions.c.task == task, revisions.c.user == names.c.user, revisions.c.revision == names.c.newest)
        query = LISTED.select_from(names.join(revisions, sql.and_(*both))).order_by(names.c.user)
        with self.reading() as connection:
            return [revision_of(row) for row in connection.execute(query).all()]

    def delete(self, task: str, user: str, *, actor: str, expect: int = ANY) -> bool:
        """Delete every revision of a user for good, and cancel the jobs that would make another; what stays is that it happened, and when.

        Returns:
            Whether there was a revision or an open job.

        Raises:
            ConflictError: If another revision than the expected one is newest.
        """
        with self.writing(task, user) as connection:
            return kept.delete(connection, task, user, actor=actor, expect=expect)

    def unloaded(self) -> set[str]:
        """Tasks that do not answer, in any process."""
        with self.reading() as connection:
            return set(connection.execute(sql.select(unloaded.c.task)).scalars())

    def set_loaded(self, task: str, *, loaded: bool, actor: str) -> None:
        """Let a task answer, or not."""
        with self.writing() as connection:
            changed = connection.execute(sql.delete(unloaded).where(unloaded.c.task == task)).rowcount > 0
            if not loaded:
                connection.execute(sql.insert(unloaded), {"task": task})
                changed = not changed
            if changed:
                happened = {"actor": actor, "action": "load" if loaded else "unload", "task": task, "created": now()}
                connection.execute(sql.insert(events), happened)
