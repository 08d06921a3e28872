"""The SQLite file of a store: private to its owner, never recreated while in use, and checked for replacement.

SQLite keeps writing to a file that was deleted, replaced or moved, and acknowledges writes that are then lost. So every process compares
the files it has open with those at their paths, by device and inode. A worker process accepts only the file with which the server was
started, so that a restarted one does not open another database. The server's first process keeps that file's inode in use (``pin``):
otherwise the file system may give it to the next new file, which then looks like the original.

    PATH        checked before each read; before each write, and after it, before it is acknowledged
    PATH-wal    checked before and after each write: commits are written there first
    PATH-shm    likewise: the index by which other processes find their way in the log

SQLite itself never replaces the log of an open database; the last connection to close removes it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from isoform.runtime.errors import StoreError

__all__ = ["File", "Identity"]

log = logging.getLogger("isoform.server")

PRIVATE = 0o600
READ_SECONDS, WRITE_SECONDS = 2, 10
"""Busy timeouts of connections; with a write-ahead log readers hardly ever wait."""
Identity = tuple[int, int]
"""A file's device and inode."""


class OpenFile(sqlite3.Connection):
    """A connection that notifies its ``File`` when it is closed."""

    closing: Callable[[], AbstractContextManager[None]] = nullcontext

    def close(self) -> None:
        """Close the connection. With a database's last connection SQLite removes the log."""
        closing, self.closing = self.closing, nullcontext
        with closing():
            super().close()


class File:
    """An SQLite database at a path.

    Args:
        path: Path of the file; symbolic links are followed.
        create: Whether to create a missing file, readable by its owner only.
        identity: The only file to accept at the path; None for the one that is there now.

    Raises:
        StoreError: If the file cannot be created.
    """

    def __init__(self, path: Path, *, create: bool, identity: Identity | None = None) -> None:
        self._path = path.absolute()
        self._name = str(self._path)
        if create:
            self._create()
        self.identity = identity or _identity(self._name)
        """Identity of the accepted file; None if there was none, and then none is ever accepted."""
        self._lock, self._connections = threading.Lock(), 0
        self._log: tuple[tuple[str, Identity | None], ...] = ()

    def connect(self, *, writes: bool) -> OpenFile:
        """Open another connection to the same file; never creates a file.

        Args:
            writes: Whether the connection is for writing, with the longer timeout.

        Raises:
            StoreError: If the file was deleted or replaced.
            sqlite3.Error: If it cannot be opened.
        """
        # Not beside a close: closing the last connection removes the log, whose identity is noted here.
        with self._lock:
            self.check(log=True)
            connection = sqlite3.connect(
                f"{self._path.as_uri()}?mode=rw", uri=True, timeout=WRITE_SECONDS if writes else READ_SECONDS,
                # isolation_level None: sqlite3 begins no transactions itself (writers send BEGIN IMMEDIATE). No check of threads:
                # SQLAlchemy's pool lends a connection to one thread at a time, but not always to the same one.
                isolation_level=None, check_same_thread=False, factory=OpenFile,
            )  # fmt: skip
            try:
                # FULL: a commit is on disk before it is acknowledged.
                for setting in ("journal_mode=WAL", "synchronous=FULL"):
                    connection.execute(f"PRAGMA {setting}")
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # makes SQLite open the log as well
                if not self._connections:
                    real = os.path.realpath(self._path)
                    self._log = tuple((name, _identity(name)) for name in (real, f"{real}-wal", f"{real}-shm"))
                # Again, because the file may have been replaced between the first check and the connect.
                self.check(log=True)
            except BaseException:
                connection.close()
                if not self._connections:
                    self._log = ()
                raise
            self._connections += 1
            connection.closing = self._closing
        return connection

    @contextmanager
    def _closing(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            finally:
                self._connections -= 1
                if not self._connections:
                    self._log = ()

    def check(self, *, log: bool = False) -> None:
        """Raise ``StoreError`` if the file at the path is not the one that is open.

        Args:
            log: Whether to check the log and its index too.
        """
        if _identity(self._name) != self.identity or self.identity is None:
            raise StoreError(
                f"{self._path} is not the file that is open: it was deleted, replaced or moved; "
                "stop the server, put the right file there, and start it again"
            )
        for name, identity in self._log if log else ():
            if _identity(name) != identity:
                raise StoreError(
                    f"{name} is not the file that is open: it was deleted, replaced or moved while the database was in use; "
                    "restart the server, and restore a backup if anything is missing"
                )

    def pin(self) -> None:
        """Keep the file's inode in use, so that no other file gets it, for as long as this process or a child lives.

        The process must have a connection open, so that the inode is still the file's. The descriptor is never closed: closing any
        descriptor of a file drops the process's locks on it (sqlite.org/howtocorrupt.html, 2.2).

        Raises:
            StoreError: If the file was deleted or replaced.
        """
        try:
            found = os.fstat(os.open(self._name, os.O_RDONLY))
        except OSError as problem:
            raise StoreError(f"cannot open the signature store: {problem}") from None
        if (found.st_dev, found.st_ino) != self.identity:
            self.check()
            raise StoreError(f"{self._path} was replaced while the server opened it; start the server again")

    def tighten(self) -> None:
        """Remove the permissions of others on the files: earlier versions created them readable by everybody."""
        for name in ("", "-wal", "-shm"):
            path = f"{os.path.realpath(self._path)}{name}"
            try:
                mode = os.stat(path).st_mode
                if os.name == "posix" and mode & stat.S_IRWXO:  # permissions of a group alone are deliberate, and stay
                    os.chmod(path, PRIVATE)
                    log.warning("%s was readable by everybody; changed to its owner only", path)
            except FileNotFoundError:
                continue
            except OSError as problem:
                log.warning("%s is readable by everybody, and its mode cannot be changed: %s", path, problem)

    def _create(self) -> None:
        """Create an empty file if there is none."""
        real = os.path.realpath(self._path)
        try:
            # O_EXCL: an existing file is not opened, because closing it would drop the locks of this process's connections.
            os.close(os.open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE))
        except FileExistsError:
            if not os.path.isfile(real):
                raise StoreError(f"cannot open the signature store: {self._path} is not a file") from None
        except OSError as problem:
            raise StoreError(f"cannot open the signature store: {problem}") from None


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
