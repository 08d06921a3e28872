"""The store of users' signatures: append a revision, look up the newest, roll back, delete. Every call is one transaction.

When ``append`` returns, the revision is durable (SQLite: write-ahead log, synchronous; PostgreSQL: as configured). Of two writers that
expect the same revision, the second gets a ``ConflictError``. No HTTP here, and the bytes of signatures are opaque.
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
    clock,
    moment,
    revision_of,
)
from isoform.server.store.schema import events, revisions, unloaded
from isoform.server.store.sqlite import Identity

__all__ = ["ANY", "Reply", "Revision", "Store", "clock", "moment"]


class Store(Database):
    """An open database of signatures. Safe to use from several threads; each process opens its own. A context manager.

    Args:
        where: An SQLite file, or a URL, as for ``Database``.
        connections: Size of the pool of readers, and of the pool of writers.
        keep: Revisions per user whose bytes are kept.
        create: Whether to connect now and create missing tables, as for ``Database``.
        identity: The only SQLite file to accept, as for ``Database``.

    Raises:
        StoreError: If the URL is invalid, its driver is not installed, or the database cannot be reached.
    """

    def __init__(
        self, where: str | URL | Path, *, connections: int = 8, keep: int = KEEP, create: bool = True, identity: Identity | None = None,
    ) -> None:  # fmt: skip
        super().__init__(where, connections=connections, create=create, identity=identity)
        self.keep = keep

    def newest(self, task: str, user: str) -> Revision | None:
        """A user's newest revision, which answers; None if there is none."""
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
        """Append a revision.

        Args:
            task: Name of the task.
            user: Name of the user.
            digest: Digest of the signature, 64 hex digits.
            data: Its file.
            action: ``put``, ``personalize`` or ``adapt``.
            actor: Name of the caller.
            expect: Number of the revision that must be the newest, 0 for none, ``ANY`` for any.
            reply: Idempotency key to store with it, in the same transaction.

        Returns:
            The new revision.

        Raises:
            ConflictError: If another revision is the newest, or a concurrent write came first.
            StoreError: If the database fails.
        """
        with self.writing(task, user) as connection:
            return kept.append(
                connection, task, user, digest=digest, data=data, action=action, actor=actor, expect=expect, reply=reply, keep=self.keep
            )  # fmt: skip

    def rollback(
        self, task: str, user: str, *, to: int, actor: str, expect: int = ANY, reply: Reply | None = None
    ) -> Revision | None:
        """Append a revision with an earlier one's bytes.

        Args:
            task: Name of the task.
            user: Name of the user.
            to: Number of the earlier revision.
            actor: Name of the caller.
            expect: As for ``append``.
            reply: As for ``append``.

        Returns:
            The new revision; None if the earlier one does not exist, or its bytes are no longer kept.

        Raises:
            ConflictError: As ``append``.
            StoreError: If the database fails.
        """
        with self.writing(task, user) as connection:
            return kept.rollback(connection, task, user, to=to, actor=actor, expect=expect, reply=reply, keep=self.keep)

    def replied(self, reply: Reply) -> Revision | None:
        """The revision made by an earlier request with the same idempotency key; None if there was none.

        Raises:
            ConflictError: If the key was used for another request, or the revision was deleted.
        """
        with self.reading() as connection:
            return kept.replied(connection, reply)

    def find(self, task: str, user: str, revision: int) -> Revision | None:
        """A revision by its number; None if it does not exist."""
        with self.reading() as connection:
            row = connection.execute(ONE, {"task": task, "user": user, "revision": revision}).first()
        return None if row is None else revision_of(row)

    def history(self, task: str, user: str, *, before: int | None = None, limit: int = 100) -> list[Revision]:
        """List a user's revisions below ``before``, newest first, at most ``limit``."""
        query = LISTED.where(revisions.c.task == task, revisions.c.user == user)
        if before is not None:
            query = query.where(revisions.c.revision < before)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(revisions.c.revision.desc()).limit(limit)).all()
        return [revision_of(row) for row in rows]

    def users(self, task: str, *, after: str = "", limit: int = 100) -> list[Revision]:
        """List a task's users after ``after``, by name, at most ``limit``; each as its newest revision."""
        # Aggregate first and join second, so that a page costs its own users and not the whole table.
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
        """Delete every revision of a user permanently, and cancel open jobs, which would make another. Only an event and the last number stay.

        Returns:
            Whether there was a revision or an open job.

        Raises:
            ConflictError: If the newest revision is not the expected one.
        """
        with self.writing(task, user) as connection:
            return kept.delete(connection, task, user, actor=actor, expect=expect)

    def unloaded(self) -> set[str]:
        """Names of unloaded tasks."""
        with self.reading() as connection:
            return set(connection.execute(sql.select(unloaded.c.task)).scalars())

    def set_loaded(self, task: str, *, loaded: bool, actor: str) -> None:
        """Load or unload a task, and write an event if that changed anything."""
        # With a lock of the task's own: in PostgreSQL, two transactions that both find no row would both insert it.
        with self.writing(task) as connection:
            changed = connection.execute(sql.delete(unloaded).where(unloaded.c.task == task)).rowcount > 0
            if not loaded:
                connection.execute(sql.insert(unloaded), {"task": task})
                # To unload is a change if there was no row to delete.
                changed = not changed
            if changed:
                happened = {"actor": actor, "action": "load" if loaded else "unload", "task": task}
                connection.execute(sql.insert(events), {**happened, "created": clock(connection)})
