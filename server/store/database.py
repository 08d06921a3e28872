"""A database: its connections, its transactions, its errors. Knows SQLite and PostgreSQL, and nothing of what is kept there.

Every failure is a ``StoreError`` with one line, wherever in SQLAlchemy or the driver it comes from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from isoform.runtime.errors import ConflictError, StoreError
from isoform.server.store.schema import create

__all__ = ["Database"]


class Database:
    """An open database. Safe to use from several threads; each process opens its own. A context manager.

    Args:
        url: ``sqlite:///signatures.db`` or ``postgresql+psycopg://user:password@host/name``, as SQLAlchemy reads it.
        connections: At most so many at once for reading, and as many for writing.

    Raises:
        StoreError: If the URL makes no sense, its driver is not installed, or the database cannot be reached.
    """

    def __init__(self, url: str, *, connections: int = 8) -> None:
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
                create(connection)
        except (SQLAlchemyError, ImportError) as problem:
            raise StoreError(f"cannot open the signature store: {_first_line(problem)}") from None
        self._texts = dict[sql.Select[Any], tuple[str, list[str] | None, dict[str, Any]]]()

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

    def first(self, query: sql.Select[Any], values: dict[str, object]) -> Any:
        """A query's first row, straight from the driver: every prediction asks, and this takes a fifth of the time."""
        if query not in self._texts:
            self._texts[query] = self._compiled(query)
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

    def _compiled(self, query: sql.Select[Any]) -> tuple[str, list[str] | None, dict[str, Any]]:
        """A query as the driver wants it, the order of its values if they have no names there, and those that are always the same."""
        compiled = query.compile(dialect=self._reader.dialect, compile_kwargs={"render_postcompile": True})
        return str(compiled), compiled.positiontup, dict(compiled.params)

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


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
