"""Signatures of users: append a revision, look the newest up, go back, delete. Every call is one transaction.

What ``append`` returned is on the disk (SQLite: write-ahead log, synchronous; PostgreSQL: as it is set up): no crash loses it.
Two writers that began from the same revision: the second gets a ``ConflictError``. Knows no HTTP, and never looks into the bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from isoform.runtime.errors import ConflictError, StoreError
from isoform.server.store.schema import METADATA, events, replies, revisions, unloaded

__all__ = ["ANY", "Reply", "Revision", "Store", "moment", "now"]

ANY = -1
"""Expect nothing: append to whatever is newest."""
KEEP = 100
"""Revisions of one user whose bytes are kept."""
REPLY_DAYS = 7
"""How long an idempotency key is remembered."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Revision:
    """One revision of one user's signature."""

    task: str
    user: str
    revision: int
    """From 1."""
    digest: str
    """The signature's, 64 hex digits."""
    parent: str | None
    """Digest of the revision that was newest before it; None for the first."""
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
    sender: str = ""
    """Who sent it, by id, because two actors may have the same name; empty for the actor's name."""


class Store:
    """An open database. Safe to use from several threads; each process opens its own. A context manager.

    Args:
        url: ``sqlite:///signatures.db`` or ``postgresql+psycopg://user:password@host/name``, as SQLAlchemy reads it.
        connections: At most so many at once for reading, and as many for writing.
        keep: Revisions of one user whose bytes are kept.

    Raises:
        StoreError: If the URL makes no sense, its driver is not installed, or the database cannot be reached.
    """

    def __init__(self, url: str, *, connections: int = 8, keep: int = KEEP) -> None:
        self._keep = keep
        try:
            lite = sql.make_url(url).get_backend_name() == "sqlite"
            options: dict[str, Any] = {"pool_size": connections, "max_overflow": 0, "pool_timeout": 10}
            if not lite:
                options["pool_pre_ping"] = True
                options["connect_args"] = _PATIENCE if "options" not in sql.make_url(url).query else {}
            self._writer = sql.create_engine(url, **options)
            self._reader = sql.create_engine(url, **options, **({} if lite else {"isolation_level": "AUTOCOMMIT"}))
            if lite:
                _set_up_sqlite(self._writer, writes=True)
                _set_up_sqlite(self._reader, writes=False)
            with self._writer.begin() as connection:
                METADATA.create_all(connection)
            self._texts = {query: self._compiled(query) for query in (_NEWEST, _DATA)}
        except (SQLAlchemyError, ImportError) as problem:
            raise StoreError(f"cannot open the signature store: {_first_line(problem)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
        self._writer.dispose()

    @contextlib.contextmanager
    def writing(self, *whose: str) -> Iterator[Connection]:
        """A transaction; writers of the same user wait for each other. Errors of the database become ours."""
        try:
            with self._writer.begin() as connection:
                if whose and connection.dialect.name == "postgresql":  # SQLite has one writer at a time
                    connection.execute(_LOCK, {"whose": "/".join(whose)})
                yield connection
        except IntegrityError:
            raise ConflictError(
                "somebody else wrote at the same moment; read the newest revision and try again"
            ) from None
        except SQLAlchemyError as problem:
            raise StoreError(f"the signature store failed: {_first_line(problem)}") from None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that reads; each statement sees what is committed."""
        try:
            with self._reader.connect() as connection:
                yield connection
        except SQLAlchemyError as problem:
            raise StoreError(f"the signature store failed: {_first_line(problem)}") from None

    def newest(self, task: str, user: str) -> Revision | None:
        """The revision that answers for a user; None if there is none."""
        row = self._first(_NEWEST, {"task": task, "user": user})
        return None if row is None else _revision(row)

    def data(self, task: str, user: str, revision: int) -> bytes | None:
        """A signature file's bytes; None if there is no such revision, or its bytes are no longer kept."""
        row = self._first(_DATA, {"task": task, "user": user, "revision": revision})
        return None if row is None or row[0] is None else bytes(row[0])

    def _compiled(self, query: sql.Select[Any]) -> tuple[str, list[str] | None, dict[str, Any]]:
        """A query as the driver wants it, the order of its values if they have no names there, and those that are always the same."""
        compiled = query.compile(dialect=self._reader.dialect, compile_kwargs={"render_postcompile": True})
        return str(compiled), compiled.positiontup, dict(compiled.params)

    def _first(self, query: sql.Select[Any], values: dict[str, object]) -> Any:
        """A query's first row, straight from the driver: every prediction asks, and this takes a fifth of the time."""
        text, names, always = self._texts[query]
        values = {**always, **values}
        errors: type[Exception] = self._reader.dialect.loaded_dbapi.Error
        try:
            connection = self._reader.raw_connection()
        except SQLAlchemyError as problem:
            raise StoreError(f"the signature store failed: {_first_line(problem)}") from None
        try:
            cursor = connection.cursor()
            cursor.execute(text, values if names is None else tuple(values[name] for name in names))
            return cursor.fetchone()
        except errors as problem:
            connection.invalidate()
            raise StoreError(f"the signature store failed: {_first_line(problem)}") from None
        finally:
            connection.close()

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
            row = connection.execute(_NEWEST, {"task": task, "user": user}).first()
            newest = None if row is None else _revision(row)
            number = newest.revision if newest is not None else 0
            if expect not in (ANY, number):
                raise ConflictError(
                    f"{task}/{user} is at revision {number}, but {expect} was expected; read it again and decide anew"
                )
            made = Revision(
                task=task, user=user, revision=number + 1, digest=digest, parent=newest.digest if newest else None, action=action,
                actor=actor, created=now(), kept=True,
            )  # fmt: skip
            connection.execute(
                sql.insert(revisions),
                {
                    "task": task, "user": user, "revision": made.revision, "digest": bytes.fromhex(digest),
                    "parent": bytes.fromhex(made.parent) if made.parent else None, "action": action, "actor": actor,
                    "created": made.created, "data": data,
                },
            )  # fmt: skip
            if made.revision > self._keep:
                old = {"task": task, "user": user, "revision": made.revision - self._keep}
                connection.execute(_FORGET, {f"b_{name}": value for name, value in old.items()})
            if reply is not None:
                connection.execute(
                    sql.delete(replies).where(replies.c.created < made.created - REPLY_DAYS * 86_400_000)
                )
                connection.execute(
                    sql.insert(replies),
                    {
                        "actor": reply.sender or actor, "key": reply.key, "fingerprint": reply.fingerprint, "task": task, "user": user,
                        "revision": made.revision, "created": made.created,
                    },
                )  # fmt: skip
        return made

    def replied(self, actor: str, reply: Reply) -> Revision | None:
        """What an earlier request of the same sender with the same idempotency key made; None if there was none.

        Raises:
            ConflictError: If that key came with another request, or what it made is deleted.
        """
        with self.reading() as connection:
            where = (replies.c.actor == (reply.sender or actor), replies.c.key == reply.key)
            row = connection.execute(sql.select(replies).where(*where)).first()
            if row is None:
                return None
            if bytes(row.fingerprint) != reply.fingerprint:
                raise ConflictError(
                    f"the idempotency key {reply.key!r} came with another request before; choose a new one"
                )
            place = {"task": row.task, "user": row.user, "revision": row.revision}
            found = connection.execute(_ONE, place).first()
        if found is None:
            raise ConflictError("what this idempotency key made is deleted")
        return _revision(found)

    def find(self, task: str, user: str, revision: int) -> Revision | None:
        """One revision; None if there is none of that number."""
        with self.reading() as connection:
            row = connection.execute(_ONE, {"task": task, "user": user, "revision": revision}).first()
        return None if row is None else _revision(row)

    def history(self, task: str, user: str, *, before: int | None = None, limit: int = 100) -> list[Revision]:
        """A user's revisions, newest first, at most ``limit``, all below ``before``."""
        query = _LISTED.where(revisions.c.task == task, revisions.c.user == user)
        if before is not None:
            query = query.where(revisions.c.revision < before)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(revisions.c.revision.desc()).limit(limit)).all()
        return [_revision(row) for row in rows]

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
        query = _LISTED.select_from(names.join(revisions, sql.and_(*both))).order_by(names.c.user)
        with self.reading() as connection:
            return [_revision(row) for row in connection.execute(query).all()]

    def delete(self, task: str, user: str, *, actor: str, expect: int = ANY) -> bool:
        """Delete every revision of a user, for good; what stays is that it happened, and when.

        Returns:
            Whether there was any.

        Raises:
            ConflictError: If another revision than the expected one is newest.
        """
        with self.writing(task, user) as connection:
            row = connection.execute(_NEWEST, {"task": task, "user": user}).first()
            if row is None:
                return False
            if expect not in (ANY, row.revision):
                raise ConflictError(
                    f"{task}/{user} is at revision {row.revision}, but {expect} was expected; read it again"
                )
            connection.execute(sql.delete(revisions).where(revisions.c.task == task, revisions.c.user == user))
            connection.execute(sql.delete(replies).where(replies.c.task == task, replies.c.user == user))
            happened = {"actor": actor, "action": "delete", "task": task, "user": user, "revision": row.revision}
            connection.execute(sql.insert(events), {**happened, "created": now()})
        return True

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

    def ready(self) -> bool:
        """Whether the database answers."""
        try:
            with self.reading() as connection:
                connection.execute(sql.select(sql.literal(1)))
        except StoreError:
            return False
        return True


_PATIENCE = {"connect_timeout": 5, "options": "-c statement_timeout=15000"}
"""PostgreSQL's: a database that hangs is an error, not a server that hangs as well."""
_LOCK = sql.text("SELECT pg_advisory_xact_lock(hashtextextended(:whose, 0))")
_COLUMNS = [column for column in revisions.c if column.name != "data"]
_LISTED = sql.select(*_COLUMNS, revisions.c.data.is_not(None).label("kept"))
_HERE = (revisions.c.task == sql.bindparam("task"), revisions.c.user == sql.bindparam("user"))
_NEWEST = _LISTED.where(*_HERE).order_by(revisions.c.revision.desc()).limit(1)
_ONE = _LISTED.where(*_HERE, revisions.c.revision == sql.bindparam("revision"))
_DATA = sql.select(revisions.c.data).where(*_HERE, revisions.c.revision == sql.bindparam("revision"))
_FORGET = (
    sql.update(revisions)
    .where(
        revisions.c.task == sql.bindparam("b_task"), revisions.c.user == sql.bindparam("b_user"),
        revisions.c.revision <= sql.bindparam("b_revision"), revisions.c.data.is_not(None),
    )
    .values(data=None)
)  # fmt: skip


def _revision(row: Any) -> Revision:
    """Of a row of ``_LISTED``'s columns, in their order."""
    task, user, revision, digest, parent, action, actor, created, kept = row
    return Revision(
        task=task, user=user, revision=revision, digest=bytes(digest).hex(), parent=bytes(parent).hex() if parent is not None else None,
        action=action, actor=actor, created=created, kept=bool(kept),
    )  # fmt: skip


def _set_up_sqlite(engine: Engine, *, writes: bool) -> None:
    """Write-ahead log, every commit on the disk; a writer takes its lock at once, so that what it read stays true; no lock to read."""

    @sql.event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None
        for setting in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {setting}")

    @sql.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if writes:
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def moment(milliseconds: int) -> str:
    """A time of the store's, ISO 8601, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
