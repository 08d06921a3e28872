"""Reading and writing files so that nobody ever sees half of one.

A file is written under a temporary name beside its place, flushed to the disk (fsync), and renamed. A directory is built under
a temporary name and *exchanged* with the old one in one system call (``renameat2`` on Linux, ``renamex_np`` on macOS), so that a
``kill -9`` at any moment leaves the old one or the new one. Some file systems refuse the exchange; there two renames do it, and
the next writer puts the old directory back if the process died between them.

A writer holds a lock on what it builds. What is left over and not locked belongs to the dead, and the next writer removes it.
Between making a temporary file and locking it there is a moment in which another writer's clean-up may take it for a dead one's:
so a writer looks, once it has the lock, whether what it locked is still there, and makes another one if not.
Imports nothing of isoform but the errors.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import glob
import importlib
import json
import os
import platform
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from isoform.runtime.errors import IsoformError

# Writing is for POSIX systems: Windows can neither exchange directories nor flush their entries.
fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

__all__ = [
    "canonical_json", "hold", "is_left_over", "open_file", "read_bytes", "read_json", "replace_directory", "set_aside", "write_bytes",
]  # fmt: skip

TRIES = 100
"""How often a writer begins anew because another one was in its way at that very moment."""
_RANDOM = "[0-9a-f]{16}"
"""Pattern of the end of a temporary name."""
_AT_FDCWD = -100
_EXCHANGE = 2
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "armv7l": 382, "riscv64": 276}
"""The system call's number, for C libraries that have no function for it."""


def read_bytes(path: Path, *, limit: int, error: type[IsoformError], what: str) -> bytes:
    """Read a whole file of at most ``limit`` bytes, using no more memory than it is long.

    Raises:
        IsoformError: Of the class ``error``, if the file is missing, unreadable, not a file, or larger than the limit.
    """
    with open_file(path, limit=limit, error=error, what=what) as file:
        try:
            return file.read(os.fstat(file.fileno()).st_size)
        except OSError as problem:
            raise error(f"{what} {path} cannot be read: {problem.strerror or problem}") from None


def open_file(path: Path, *, limit: int, error: type[IsoformError], what: str) -> BinaryIO:
    """Open a regular file of at most ``limit`` bytes for reading, never waiting for it; errors as in ``read_bytes``."""
    try:
        # Not blocking: opening a pipe would wait for a writer, for ever if there is none.
        file = open(path, "rb", opener=_not_blocking)  # noqa: SIM115 - the caller closes it
    except FileNotFoundError:
        raise error(f"{what} {path} does not exist") from None
    except (OSError, ValueError) as problem:
        raise error(f"{what} {path} cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    found = os.fstat(file.fileno())
    if stat.S_ISREG(found.st_mode) and found.st_size <= limit:
        return file
    file.close()
    if stat.S_ISREG(found.st_mode):
        raise error(f"{what} {path} is larger than the {limit:,} bytes that such a file may have")
    raise error(f"{what} {path} cannot be read: it is not a regular file")


def _not_blocking(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def read_json(path: Path, *, limit: int, error: type[IsoformError], what: str) -> Any:
    """Read a JSON file of at most ``limit`` bytes; errors as in ``read_bytes``, and one for text that is not JSON."""
    data = read_bytes(path, limit=limit, error=error, what=what)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise error(f"{what} {path} is not JSON") from None


def canonical_json(value: object) -> bytes:
    """The bytes in which every JSON file of a bundle is written: two spaces, a closing newline, no NaN, keys in the order given."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_bytes(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write a file so that its place holds the old bytes or all of the new ones, whatever happens.

    Args:
        path: Its place; of a link, what that leads to.
        data: All bytes.
        mode: Permissions, from the first byte on; None for those of the old file, or the usual ones.

    Raises:
        IsoformError: If the directory is missing or not writable, or the disk is full.
    """
    path = Path(os.path.realpath(path))
    try:
        _remove_left_overs(path.parent, f".{path.name}.tmp-")
        temporary, handle = _begin(path, "tmp", functools.partial(_new_file, mode=0o666 if mode is None else mode))
        try:
            with os.fdopen(handle, "wb") as file:
                if mode is None:  # who may read the old file may read the new one, and nobody else
                    with contextlib.suppress(FileNotFoundError):
                        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync(path.parent)
    except OSError as problem:
        raise IsoformError(f"{path} cannot be written: {problem.strerror}") from None


@contextlib.contextmanager
def replace_directory(path: Path) -> Iterator[Path]:
    """Build a directory beside ``path``, and put it in its place at the end of the block.

    The block gets an empty directory to fill. If it raises, or the process dies, ``path`` stays as it was.

    Raises:
        IsoformError: If the parent directory is missing or not writable, or ``path`` is a file.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise IsoformError(f"{path} is a file, but a directory was to be written there; choose another name")
    try:
        _restore(path)
        for kind in ("new", "old"):
            _remove_left_overs(path.parent, f".{path.name}.{kind}-")
        temporary, handle = _begin(path, "new", _new_directory)
    except OSError as problem:
        raise IsoformError(f"{path} cannot be written: {problem.strerror}") from None
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        _put(temporary, path)
        _sync(path.parent)
    except OSError as problem:
        raise IsoformError(f"{path} cannot be written: {problem.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def hold(path: Path, *, busy: IsoformError, remove: bool = False) -> Callable[[], None]:
    """Take a file's lock, so that no other process, and nobody else in this one, does the same thing at the same time.

    The lock ends with the process, however that ends. Where the file system or the system has no locks, there is none.

    Args:
        path: The file; made, empty, if it is missing.
        busy: Raised if somebody else holds the lock.
        remove: Whether the file goes with the lock.

    Returns:
        What gives the lock back; to be called once.

    Raises:
        IsoformError: ``busy``; or another one if the file cannot be made.
    """
    for _ in range(TRIES):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except OSError as problem:
            raise IsoformError(f"{path} cannot be written: {problem.strerror}") from None
        free = _lock(handle)
        if free and _is_at(path, handle):
            return functools.partial(_give_back, handle, path if remove else None, os.getpid())
        os.close(handle)
        if not free:
            break
        # else its last holder has removed it meanwhile: this would be the lock of a file that is gone
    raise busy


def _give_back(handle: int, path: Path | None, holder: int) -> None:
    if os.getpid() == holder:  # a process that was forked has the handle too, but not the lock
        with contextlib.suppress(OSError):
            if path is not None:
                os.unlink(path)  # before the lock is free: whoever takes it then sees that the file is gone
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def set_aside(path: Path) -> Path | None:
    """Where a writer has put the directory that was at ``path`` while it renames, or left it when it died; None if there is none."""
    found = list[tuple[float, Path]]()
    for place in _left_overs(path.parent, f".{path.name}.old-"):
        with contextlib.suppress(FileNotFoundError):
            found.append((place.stat().st_mtime, place))
    return max(found)[1] if found else None


def is_left_over(path: Path) -> bool:
    """Whether a file is what a writer left that died before it was done."""
    return re.fullmatch(rf"\..+\.tmp-{_RANDOM}", path.name) is not None


def _left_overs(directory: Path, prefix: str) -> list[Path]:
    """What bears a temporary name of ours: the prefix and a random end."""
    return [
        path
        for path in directory.glob(f"{glob.escape(prefix)}*")
        if re.fullmatch(_RANDOM, path.name.removeprefix(prefix))
    ]


def _remove_left_overs(directory: Path, prefix: str) -> None:
    """Remove what the dead have left: everything of that name that nobody holds a lock on."""
    if fcntl is None:
        return
    for left_over in _left_overs(directory, prefix):
        with contextlib.suppress(OSError):
            handle = os.open(left_over, os.O_RDONLY)
            try:
                fcntl.flock(
                    handle, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # no lock, no removal: a file system without locks has none
                if left_over.is_dir():
                    shutil.rmtree(left_over, ignore_errors=True)
                else:
                    left_over.unlink()
            finally:
                os.close(handle)


def _lock(handle: int) -> bool:
    """Mark as being written, until the handle is closed or the process dies; False if somebody else holds the lock.

    Never waits, so that nobody who may read a folder can stop who writes there. Best effort: some file systems have no locks.
    """
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True


def _is_at(path: Path, handle: int) -> bool:
    """Whether an open file or directory is the one that bears this name now."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False


def _begin(path: Path, kind: str, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Make something temporary beside ``path`` and lock it; its place, and the handle that holds the lock."""
    for _ in range(TRIES):
        temporary = path.parent / f".{path.name}.{kind}-{os.urandom(8).hex()}"
        try:
            handle = make(temporary)
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            continue  # another writer's clean-up removed it before it could be opened
        if _lock(handle) and _is_at(temporary, handle):
            return temporary, handle
        os.close(handle)  # a clean-up was faster, and has removed it or is about to
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _new_file(path: Path, *, mode: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)


def _new_directory(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _restore(path: Path) -> None:
    """Put back the directory that a writer took away before it died; one that lives holds its lock, and goes on by itself."""
    aside = set_aside(path)
    if aside is None or path.exists():
        return
    with contextlib.suppress(FileNotFoundError):
        handle = os.open(aside, os.O_RDONLY)
        try:
            if _lock(handle) and not path.exists():
                os.rename(aside, path)
        finally:
            os.close(handle)


def _put(new: Path, path: Path) -> None:
    """Give a new directory its name, whatever other writers do to that name meanwhile; what was there is at ``new`` then, or gone."""
    for attempt in range(TRIES):
        try:
            if path.exists():
                _exchange(new, path)
            else:
                os.rename(new, path)
            return
        except OSError as problem:
            if problem.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY) or attempt == TRIES - 1:
                raise
            time.sleep(0.001 * attempt)


def _sync(path: Path) -> None:
    """Flush a file, or a directory's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories' names. Atomic where the system can; else two renames, with a moment between them."""
    library = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(new), os.fsencode(old)
    if sys.platform == "linux":
        if hasattr(library, "renameat2"):
            done = library.renameat2(_AT_FDCWD, a, _AT_FDCWD, b, _EXCHANGE)
        elif number := _RENAMEAT2.get(platform.machine()):
            done = library.syscall(number, _AT_FDCWD, a, _AT_FDCWD, b, _EXCHANGE)
        else:
            done = -1
        if done == 0:
            return
    elif sys.platform == "darwin" and hasattr(library, "renamex_np") and library.renamex_np(a, b, _EXCHANGE) == 0:
        return
    held = os.open(old, os.O_RDONLY)
    try:
        _lock(held)  # so that no other writer takes it for what a dead one left
        if not _is_at(old, held):  # another writer was faster
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        aside = old.with_name(f".{old.name}.old-{os.urandom(8).hex()}")
        os.rename(old, aside)
        try:
            os.rename(new, old)
        except OSError:
            os.rename(aside, old)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(held)
