"""The file of a store in SQLite: made for its owner alone, opened only where it is, and watched while it is open.

SQLite goes on writing into a file that was deleted, replaced or moved, and acknowledges what nobody will find again. So every
process remembers which files it has open, and compares them with what lies at their paths (device and inode). A process of a server accepts only
the database that the server was started with, so that one that is started again does not open whatever lies there by then. The server's
first process holds that file's inode (``pin``): else a file system gives it to the next file that is made, which then looks like the first.

    PATH        before each read; before each write, and after it, before it is acknowledged
    PATH-wal    before and after each write: what is committed lies there first
    PATH-shm    the same: other processes find their way in the log by it

The log of a database that is open is never replaced by SQLite itself: the last connection to close it removes it.
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
"""How long a connection waits for a lock; readers wait for hardly any."""
Identity = tuple[int, int]
"""A file's device and inode."""


class OpenFile(sqlite3.Connection):
    """A connection whose closing its ``File`` hears of."""

    closing: Callable[[], AbstractContextManager[None]] = nullcontext

    def close(self) -> None:
        """Close it; of a database's last connection, SQLite removes the log."""
        closing, self.closing = self.closing, nullcontext
        with closing():
            super().close()


class File:
    """An SQLite database at a path.

    Args:
        path: Where it is; a symbolic link is followed.
        create: Whether to make it, readable for its owner alone, where there is none.
        identity: The only file that is accepted there; None for the one that is there now.

    Raises:
        StoreError: If it cannot be made.
    """

    def __init__(self, path: Path, *, create: bool, identity: Identity | None = None) -> None:
        self._path = path.absolute()
        self._name = str(self._path)
        if create:
            self._create()
        self.identity = identity or _identity(self._name)
        """Of the file that is accepted at the path; None if there was none, and then none ever is."""
        self._lock, self._connections = threading.Lock(), 0
        self._log: tuple[tuple[str, Identity | None], ...] = ()

    def connect(self, *, writes: bool) -> OpenFile:
        """Open another connection to the same file; never makes one.

        Args:
            writes: Whether it waits for other writers.

        Raises:
            StoreError: If another file is there by now, or none.
            sqlite3.Error: If it cannot be opened.
        """
        with self._lock:
            self.check(log=True)
            connection = sqlite3.connect(
                f"{self._path.as_uri()}?mode=rw", uri=True, timeout=WRITE_SECONDS if writes else READ_SECONDS,
                isolation_level=None, check_same_thread=False, factory=OpenFile,
            )  # fmt: skip
            try:
                for setting in ("journal_mode=WAL", "synchronous=FULL"):  # every commit is on the disk
                    connection.execute(f"PRAGMA {setting}")
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # opens the log as well
                if not self._connections:
                    real = os.path.realpath(self._path)
                    self._log = tuple((name, _identity(name)) for name in (real, f"{real}-wal", f"{real}-shm"))
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
        """Raise ``StoreError`` if another file than the one that is open is at the path, or none.

        Args:
            log: Whether to compare the log and its index too.
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
        """Keep the file's inode from being given to another file, for as long as this process or one that it forks lives.

        For a process that has a connection open, so that the inode is still the file's. The descriptor is never closed: closing any
        descriptor of a file drops the locks that the process has on it (sqlite.org/howtocorrupt.html, 2.2).

        Raises:
            StoreError: If another file is at the path by now, or none.
        """
        try:
            found = os.fstat(os.open(self._name, os.O_RDONLY))
        except OSError as problem:
            raise StoreError(f"cannot open the signature store: {problem}") from None
        if (found.st_dev, found.st_ino) != self.identity:
            self.check()
            raise StoreError(f"{self._path} was replaced while it was opened; start the server again")

    def tighten(self) -> None:
        """Let nobody read the files whom their owner did not allow it: those of earlier versions could be read by everybody."""
        for name in ("", "-wal", "-shm"):
            path = f"{os.path.realpath(self._path)}{name}"
            try:
                mode = os.stat(path).st_mode
                if (
                    os.name == "posix" and mode & stat.S_IRWXO
                ):  # a group's permissions are somebody's decision, and stay
                    os.chmod(path, PRIVATE)
                    log.warning("%s could be read by everybody; now its owner alone can", path)
            except FileNotFoundError:
                continue
            except OSError as problem:
                log.warning("everybody can read %s, and that cannot be changed: %s", path, problem)

    def _create(self) -> None:
        """Make an empty file, where there is none."""
        real = os.path.realpath(self._path)
        try:
            # One that is there is not opened: closing it again would drop the locks of this process's other connections.
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
