"""Connections, transactions and errors of a database, SQLite or PostgreSQL. Independent of what is stored.

    sqlite.py    the SQLite file
    breaker.py   circuit breaker for a database that hangs

Every failure of SQLAlchemy, the driver or the system becomes a ``StoreError`` with a one-line message.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy as sql
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from isoform.runtime.errors import ConflictError, StoreError, first_line
from isoform.runtime.extras import missing
from isoform.server.store.breaker import Breaker
from isoform.server.store.schema import create, unloaded
from isoform.server.store.sqlite import File, Identity
from isoform.server.store.upgrade import upgrade

__all__ = ["Database", "file_url"]

T = TypeVar("T")
READY_SECONDS = 2.0
"""Timeout of the readiness check."""
CREATE_SECONDS = 10.0
"""How long to wait for another process that creates the tables in the same SQLite file."""
BUSY = 5
"""SQLITE_BUSY: another connection holds the lock."""


class Database:
    """An open database. Safe to use from several threads; each process opens its own. A context manager.

    Args:
        where: An SQLite file, or a URL for SQLAlchemy: ``sqlite:///signatures.db``, ``postgresql+psycopg://user:password@host/name``.
        connections: Size of the pool of readers, and of the pool of writers.
        create: Whether to connect now and create missing tables; otherwise the database is opened at its first use.
        identity: The only SQLite file to accept; None for the one that is there now.

    Raises:
        StoreError: If the URL is invalid, its driver is not installed, or the database cannot be reached.
    """

    def __init__(
        self, where: str | URL | Path, *, connections: int = 8, create: bool = True, identity: Identity | None = None
    ) -> None:
        try:
            url = file_url(where) if isinstance(where, Path) else sql.make_url(where)
            # 5 s for a free connection instead of SQLAlchemy's 30: its caller occupies a thread of the server meanwhile.
            options: dict[str, Any] = {"pool_size": connections, "max_overflow": 0, "pool_timeout": 5}
            sqlite = url.get_backend_name() == "sqlite"
            self._file = File(_path(url), create=create, identity=identity) if sqlite else None
            # Two pools, so that readers find a connection while writers wait for SQLite's one write lock.
            self._writer, self._reader = self._engines(url, options)
            self._errors: tuple[type[Exception], ...] = (
                SQLAlchemyError,
                self._reader.dialect.loaded_dbapi.Error,
                OSError,
                UnicodeError,  # raised for SQLite messages that quote damaged bytes
            )
            self._texts = dict[sql.Select[Any], tuple[str, list[str] | None, dict[str, Any]]]()
            self._breaker = Breaker(self._probe, self._cut)
            if create:
                try:
                    self._create()
                except BaseException:
                    self.close()  # the pools may hold connections already
                    raise
        except ModuleNotFoundError as problem:
            if problem.name == "psycopg":
                raise missing(problem, "the signature store", extra="postgresql") from None
            raise StoreError(
                f"the signature store needs {problem.name}, which is not installed; use postgresql+psycopg://…, and pip install 'isoform[postgresql]'"
            ) from None
        except ImportError as problem:
            raise StoreError(
                f"cannot open the signature store: {first_line(problem)}; for PostgreSQL use postgresql+psycopg://…, and pip install 'isoform[postgresql]'"
            ) from None
        except SQLAlchemyError as problem:
            raise StoreError(f"cannot open the signature store: {first_line(problem)}") from None

    def _engines(self, url: URL, options: dict[str, Any]) -> tuple[Engine, Engine]:
        """The engines for writing and for reading."""
        self._links, self._lock = weakref.WeakSet[Any](), threading.Lock()
        if self._file is not None:
            file = self._file
            writer = sql.create_engine(url, **options, creator=lambda: file.connect(writes=True))
            reader = sql.create_engine(url, **options, creator=lambda: file.connect(writes=False))

            @sql.event.listens_for(writer, "begin")
            def begin(connection: Connection) -> None:
                # Take the write lock at once: a deferred transaction that reads first can fail when it upgrades to a write.
                connection.exec_driver_sql("BEGIN IMMEDIATE")

            return writer, reader
        options |= {
            # A pooled connection may have been cut by ``_cut`` or by a restart of PostgreSQL; the ping replaces it.
            "pool_pre_ping": True,
            # Timeouts that the operator wrote into the URL win.
            "connect_args": {name: value for name, value in _PATIENCE.items() if name not in url.query},
        }
        writer = sql.create_engine(url, **options)
        # Readers run single statements, and need no round trips for BEGIN and COMMIT.
        reader = sql.create_engine(url, **options, isolation_level="AUTOCOMMIT")
        for engine in (writer, reader):
            sql.event.listen(engine, "connect", self._connected)
        return writer, reader

    @property
    def identity(self) -> Identity | None:
        """Device and inode of the SQLite file that was opened; None for PostgreSQL, and if there was no file."""
        return None if self._file is None else self._file.identity

    def pin(self) -> None:
        """Keep the SQLite file's inode from being reused while this process or a child lives; no effect for PostgreSQL.

        Raises:
            StoreError: If the file was deleted or replaced.
        """
        if self._file is not None:
            self._file.pin()

    def _create(self) -> None:
        until = time.monotonic() + CREATE_SECONDS
        while True:
            try:
                with self._writer.begin() as connection:
                    if self._file is None:
                        connection.execute(_LOCK, {"whose": "isoform: tables"})  # replicas may start at the same time
                    create(connection)
                    upgrade(connection)
                break
            except OperationalError as problem:  # SQLite's busy timeout does not cover the switch to WAL mode
                if getattr(problem.orig, "sqlite_errorcode", 0) & 0xFF != BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.02)
        if self._file is not None:
            self._file.tighten()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._breaker.close()
        self._reader.dispose()
        self._writer.dispose()

    @contextlib.contextmanager
    def writing(self, *whose: str) -> Iterator[Connection]:
        """A write transaction, serialized with those of the same ``whose``.

        Args:
            *whose: What it changes: a task and a user, or a task; nothing where the locks of rows are enough.

        Raises:
            ConflictError: If a concurrent write came first.
            StoreError: If the database fails.
        """
        with self._breaker.call():
            try:
                with self._writer.begin() as connection:
                    if self._file is not None:
                        # With the write lock held: waiting for it may have taken seconds, in which the file can be replaced.
                        self._file.check(log=True)
                    elif whose:  # an advisory lock; SQLite has a single writer anyway
                        connection.execute(_LOCK, {"whose": "/".join(whose)})
                    yield connection
                # After the commit and before it is acknowledged: the file may have been replaced meanwhile.
                if self._file is not None:
                    self._file.check(log=True)
            # The user's lock does not cover what was read before the transaction: of two requests with the same idempotency
            # key, the primary key refuses the second.
            except IntegrityError:
                raise ConflictError("a concurrent write came first; read the newest revision and try again") from None
            except self._errors as problem:
                raise _failed(problem) from None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reading; each statement sees what is committed. Raises ``StoreError``."""
        with self._breaker.call():
            try:
                with self._reader.connect() as connection:
                    if self._file is not None:
                        self._file.check()
                    yield connection
            except self._errors as problem:
                raise _failed(problem) from None

    def first(self, query: sql.Select[Any], values: dict[str, object]) -> Any:
        """A query's first row, straight from the driver: this runs for every prediction, and takes a fifth of SQLAlchemy's time."""
        number = self._breaker.begin()
        try:
            return self._first(query, values)
        finally:
            self._breaker.end(number)

    def _first(self, query: sql.Select[Any], values: dict[str, object]) -> Any:
        if query not in self._texts:
            self._texts[query] = self._compiled(query)
        text, names, always = self._texts[query]
        values = {**always, **values}
        if self._file is not None:
            self._file.check()
        try:
            connection = self._reader.raw_connection()
        except self._errors as problem:
            raise _failed(problem) from None
        try:
            cursor = connection.cursor()
            cursor.execute(text, values if names is None else tuple(values[name] for name in names))
            return cursor.fetchone()
        except self._errors as problem:
            connection.invalidate()  # its state is unknown: do not return it to the pool
            raise _failed(problem) from None
        finally:
            connection.close()

    def _compiled(self, query: sql.Select[Any]) -> tuple[str, list[str] | None, dict[str, Any]]:
        """A query compiled for the driver: its text, the order of positional values (None if named), and its constant values."""
        compiled = query.compile(dialect=self._reader.dialect, compile_kwargs={"render_postcompile": True})
        return str(compiled), compiled.positiontup, dict(compiled.params)

    def within(self, seconds: float, ask: Callable[[], T]) -> T:
        """Call ``ask`` with a timeout, as ``Breaker.within``. Raises ``StoreError`` if it takes longer."""
        return self._breaker.within(seconds, ask)

    def ready(self) -> bool:
        """Whether the database answers within ``READY_SECONDS``, and the SQLite file is still the one that was opened."""
        try:
            with self._breaker.call():
                self._breaker.within(READY_SECONDS, self._probe)
        except StoreError:
            return False
        return True

    def _probe(self) -> None:
        if self._file is not None:
            self._file.check(log=True)
        self._first(_PROBE, {})

    def _connected(self, connection: Any, _: object) -> None:
        with self._lock:
            self._links.add(connection)

    def _cut(self) -> None:
        """Shut PostgreSQL's connections down, so that threads blocked on them get an error."""
        with self._lock:
            links = list(self._links)
        for link in links:
            with (
                contextlib.suppress(self._errors[1], OSError),  # closed already
                # shutdown() wakes the thread that reads from the socket, which close() would not. A duplicate, because the
                # driver closes its own descriptor itself.
                socket.socket(fileno=os.dup(link.fileno())) as line,
            ):
                line.shutdown(socket.SHUT_RDWR)


_PATIENCE = {"connect_timeout": 5, "options": "-c statement_timeout=15000"}
"""Timeouts for PostgreSQL: 5 s to connect, 15 s per statement."""
_LOCK = sql.text("SELECT pg_advisory_xact_lock(hashtextextended(:whose, 0))")
_PROBE = sql.select(unloaded.c.task).limit(1)


def file_url(path: Path) -> URL:
    """The URL of an SQLite file; its path may have any characters."""
    return URL.create("sqlite", database=str(path))


def _path(url: URL) -> Path:
    """The file that an SQLite URL names. Raises ``StoreError`` if it names none, or has options, which would be ignored."""
    if (
        url.drivername not in ("sqlite", "sqlite+pysqlite")
        or not url.database
        or url.database == ":memory:"
        or url.set(drivername="sqlite") != URL.create("sqlite", database=url.database)  # a host, a user, options
    ):
        raise StoreError(
            "cannot open the signature store: sqlite:///FILE was expected, with three slashes and without host or options; "
            "give a path that contains '?' as a path, not as a URL"
        )
    return Path(url.database)


def _failed(problem: Exception) -> StoreError:
    return StoreError(f"the signature store failed: {first_line(problem)}")
