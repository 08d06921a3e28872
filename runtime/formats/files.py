"""Atomic reading and writing of files and directories.

A file is written under a temporary name in the same directory, flushed to the disk (fsync), and renamed. A directory is built under
a temporary name and *exchanged* with the old one in a single system call (``renameat2`` on Linux, ``renamex_np`` on macOS), so that
a ``kill -9`` at any moment leaves the old or the new version. Some file systems do not support the exchange; there two renames are
used, and the next writer restores the old directory if the process died between them.

A writer locks the temporary file that it builds. Temporary files without a lock are left over from killed writers, and the next
writer removes them. Imports nothing of isoform but the errors.
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
    "canonical_json", "hold", "is_left_over", "open_file", "read_bytes", "read_json", "replace_directory",
    "replace_file", "set_aside", "write_bytes",
]  # fmt: skip

TRIES = 100
"""Maximum number of retries after a race with another writer."""
_RANDOM = "[0-9a-f]{16}"
"""Pattern of the random suffix of a temporary name."""
_AT_FDCWD = -100
_EXCHANGE = 2
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "armv7l": 382, "riscv64": 276}
"""System call numbers of ``renameat2``, for C libraries without a wrapper."""


def read_bytes(path: Path, *, limit: int, error: type[IsoformError], what: str) -> bytes:
    """Read a file of at most ``limit`` bytes, using no more memory than its size.

    Raises:
        IsoformError: Of the class ``error``, if the file is missing, unreadable, not a file, or larger than the limit.
    """
    with open_file(path, limit=limit, error=error, what=what) as file:
        try:
            return file.read(os.fstat(file.fileno()).st_size)
        except OSError as problem:
            raise error(f"{what} {path} cannot be read: {problem.strerror or problem}") from None


def open_file(path: Path, *, limit: int, error: type[IsoformError], what: str) -> BinaryIO:
    """Open a regular file of at most ``limit`` bytes for reading, without blocking. Raises as ``read_bytes``."""
    try:
        # Non-blocking: opening a named pipe would wait for a writer, possibly for ever.
        file = open(path, "rb", opener=_not_blocking)  # noqa: SIM115 - the caller closes it
    except FileNotFoundError:
        raise error(f"{what} {path} does not exist") from None
    except (OSError, ValueError) as problem:
        raise error(f"{what} {path} cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    found = os.fstat(file.fileno())  # of the open file: the path could be replaced between a check and the open
    if stat.S_ISREG(found.st_mode) and found.st_size <= limit:
        return file
    file.close()
    if stat.S_ISREG(found.st_mode):
        raise error(f"{what} {path} is larger than the {limit:,} bytes allowed")
    raise error(f"{what} {path} cannot be read: it is not a regular file")


def _not_blocking(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def read_json(path: Path, *, limit: int, error: type[IsoformError], what: str) -> Any:
    """Read a JSON file of at most ``limit`` bytes. Raises as ``read_bytes``, also for invalid JSON."""
    data = read_bytes(path, limit=limit, error=error, what=what)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise error(f"{what} {path} is not JSON") from None


def canonical_json(value: object) -> bytes:
    """Encode JSON as in every file of a bundle: indented by two spaces, final newline, no NaN, keys in the order given."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_bytes(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write a file atomically, as ``replace_file`` does, whose arguments and errors these are; ``data`` is the content."""
    with replace_file(path, mode=mode) as file:
        file.write(data)


@contextlib.contextmanager
def replace_file(path: Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a file to be written in the block, which replaces ``path`` at its end: after a crash there is the old content or all of the new.

    Args:
        path: The file; a symbolic link is followed.
        mode: Permissions, set before any content is written; None for those of the old file, or the default ones.

    Raises:
        IsoformError: If the directory is missing or not writable, or the disk is full.
    """
    path = Path(os.path.realpath(path))
    try:
        _remove_left_overs(path.parent, f".{path.name}.tmp-")
        temporary, handle = _begin(path, "tmp", functools.partial(_new_file, mode=0o666 if mode is None else mode))
        try:
            with os.fdopen(handle, "wb") as file:
                if mode is None:  # a private file must not become readable for others by being replaced
                    with contextlib.suppress(FileNotFoundError):
                        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
                yield file
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
    """Build a directory under a temporary name, and replace ``path`` with it at the end of the block.

    The block receives an empty directory to fill. If it raises, or the process dies, ``path`` is unchanged.

    Raises:
        IsoformError: If the parent directory is missing or not writable, or ``path`` is a file.
    """
    path = Path(os.path.realpath(path))
    try:
        # One look: between two, another writer without the exchange could move the directory away.
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(path.stat().st_mode):
                raise IsoformError(f"{path} is a file, but a directory was expected; choose another name")
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
    """Acquire an exclusive lock on a file, against other processes and other holders in this process.

    The lock ends with the process, even if it is killed. Without support by the file system or operating system, nothing is locked.

    Args:
        path: The lock file; created, empty, if it is missing.
        busy: Raised if the lock is held already.
        remove: Whether to delete the file when the lock is released.

    Returns:
        A function that releases the lock; to be called once.

    Raises:
        IsoformError: ``busy``; or another one if the file cannot be created.
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
        # else the last holder has just deleted the file: a lock on a deleted file excludes nobody
    raise busy


def _give_back(handle: int, path: Path | None, holder: int) -> None:
    if os.getpid() == holder:  # a forked process shares the handle: unlocking there would release its parent's lock
        with contextlib.suppress(OSError):
            if path is not None:
                os.unlink(path)  # before unlocking, so that the next holder can see that the file was deleted
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def set_aside(path: Path) -> Path | None:
    """Return where a writer has moved the old directory of ``path`` between its two renames, or left it when killed; None if nowhere."""
    found = list[tuple[float, Path]]()
    for place in _left_overs(path.parent, f".{path.name}.old-"):
        with contextlib.suppress(FileNotFoundError):
            found.append((place.stat().st_mtime, place))
    return max(found)[1] if found else None


def is_left_over(path: Path) -> bool:
    """Return whether a path is a temporary file of a writer."""
    return re.fullmatch(rf"\..+\.tmp-{_RANDOM}", path.name) is not None


def _left_overs(directory: Path, prefix: str) -> list[Path]:
    """Return all paths with a temporary name: the prefix and a random suffix."""
    return [
        path
        for path in directory.glob(f"{glob.escape(prefix)}*")
        if re.fullmatch(_RANDOM, path.name.removeprefix(prefix))
    ]


def _remove_left_overs(directory: Path, prefix: str) -> None:
    """Remove files of killed writers: all temporary files with the prefix that are not locked."""
    if fcntl is None:
        return
    for left_over in _left_overs(directory, prefix):
        with contextlib.suppress(OSError):
            handle = os.open(left_over, os.O_RDONLY)
            try:
                # raises OSError on a file system without locks, where nothing may be removed
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left_over.is_dir():
                    shutil.rmtree(left_over, ignore_errors=True)
                else:
                    left_over.unlink()
            finally:
                os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed or the process dies; return False if it is locked already.

    Best effort: True on file systems without locks.
    """
    # Never waits: flock needs only read access, so another user could block a writer for ever.
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True


def _is_at(path: Path, handle: int) -> bool:
    """Return whether an open file or directory still has this path."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False


def _begin(path: Path, kind: str, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Create a temporary file or directory next to ``path`` and lock it; return its path, and the handle with the lock."""
    for _ in range(TRIES):
        temporary = path.parent / f".{path.name}.{kind}-{os.urandom(8).hex()}"
        try:
            handle = make(temporary)
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            continue  # another writer's clean-up removed it before it could be opened
        # until it is locked, another writer's clean-up may take it for a left-over and remove it: then try again
        if _lock(handle) and _is_at(temporary, handle):
            return temporary, handle
        os.close(handle)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _new_file(path: Path, *, mode: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)


def _new_directory(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _restore(path: Path) -> None:
    """Restore the directory that a killed writer had moved away; a live writer still holds its lock and is left alone."""
    aside = set_aside(path)
    if aside is None or path.exists():
        return
    with contextlib.suppress(FileNotFoundError):
        handle = os.open(aside, os.O_RDONLY)
        try:
            if _lock(handle):
                _rename_if_free(aside, path)
        finally:
            os.close(handle)


def _rename_if_free(directory: Path, path: Path) -> bool:
    """Rename a directory, unless another writer's is at that path already; return whether it was done."""
    try:
        if not path.exists():  # an empty directory would be replaced
            os.rename(directory, path)
            return True
    except OSError as problem:
        if problem.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    return False


def _put(new: Path, path: Path) -> None:
    """Move a new directory to its path, despite concurrent writers; the old one is at ``new`` afterwards, or deleted."""
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
    """Flush a file, or a directory's entries, to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Exchange two directories. Atomic if the system supports it; else by two renames, with a moment without the directory."""
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
        _lock(held)  # else another writer could take it for the left-over of a killed one, and restore it
        if not _is_at(old, held):  # another writer has replaced it first
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        aside = old.with_name(f".{old.name}.old-{os.urandom(8).hex()}")
        os.rename(old, aside)
        try:
            os.rename(new, old)
        except OSError:
            if not _rename_if_free(aside, old):
                shutil.rmtree(aside, ignore_errors=True)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(held)
