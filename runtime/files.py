"""Reading and writing files so that nobody ever sees half of one.

A file is written under a temporary name beside its place, flushed to the disk (fsync), and renamed. A directory is built under
a temporary name and *exchanged* with the old one in one system call (``renameat2`` on Linux, ``renamex_np`` on macOS), so that a
``kill -9`` at any moment leaves the old one or the new one. Some file systems refuse the exchange; there two renames do it, and
the next writer puts the old directory back if the process died between them.

A writer holds a lock on what it builds. What is left over and not locked belongs to the dead, and the next writer removes it.
Imports nothing of isoform but the errors.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib
import json
import os
import platform
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from isoform.runtime.errors import IsoformError

# Writing is for POSIX systems: Windows can neither exchange directories nor flush their entries.
fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

__all__ = [
    "canonical_json",
    "is_left_over",
    "open_file",
    "read_bytes",
    "read_json",
    "replace_directory",
    "set_aside",
    "write_bytes",
]

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


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that its place holds the old bytes or all of the new ones, whatever happens.

    Raises:
        IsoformError: If the directory is missing or not writable, or the disk is full.
    """
    path = Path(os.path.realpath(path))
    prefix = f".{path.name}.tmp-"
    try:
        _remove_left_overs(path.parent, prefix)
        temporary = path.parent / f"{prefix}{os.urandom(8).hex()}"
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(handle, "wb") as file:
                _lock(file.fileno())
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
    prefix = f".{path.name}.new-"
    try:
        if (aside := set_aside(path)) and not path.exists():
            os.rename(aside, path)
        _remove_left_overs(path.parent, prefix)
        _remove_left_overs(path.parent, f".{path.name}.old-")
        temporary = path.parent / f"{prefix}{os.urandom(8).hex()}"
        temporary.mkdir()
        handle = os.open(temporary, os.O_RDONLY)
        _lock(handle)
    except OSError as problem:
        raise IsoformError(f"{path} cannot be written: {problem.strerror}") from None
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        if path.exists():
            _exchange(temporary, path)
        else:
            os.rename(temporary, path)
        _sync(path.parent)
    except OSError as problem:
        raise IsoformError(f"{path} cannot be written: {problem.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def set_aside(path: Path) -> Path | None:
    """Where a writer that died between two renames has left the directory that was at ``path``; None if there is none."""
    found = _left_overs(path.parent, f".{path.name}.old-")
    return max(found, key=lambda place: place.stat().st_mtime) if found else None


def is_left_over(path: Path) -> bool:
    """Whether a file is what a writer left that died before it was done."""
    return re.fullmatch(r"\..+\.tmp-[0-9a-f]{16}", path.name) is not None


def _left_overs(directory: Path, prefix: str) -> list[Path]:
    """What bears a temporary name of ours: the prefix and 16 hex digits."""
    return [
        path
        for path in directory.glob(f"{glob.escape(prefix)}*")
        if re.fullmatch("[0-9a-f]{16}", path.name.removeprefix(prefix))
    ]


def _remove_left_overs(directory: Path, prefix: str) -> None:
    """Remove what the dead have left: everything of that name that nobody holds a lock on."""
    if fcntl is None:
        return
    for left_over in _left_overs(directory, prefix):
        with contextlib.suppress(OSError):
            handle = os.open(left_over, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left_over.is_dir():
                    shutil.rmtree(left_over, ignore_errors=True)
                else:
                    left_over.unlink()
            finally:
                os.close(handle)


def _lock(handle: int) -> None:
    """Mark as being written, until the handle is closed or the process dies. Best effort: some file systems have no locks."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
    aside = old.with_name(f".{old.name}.old-{os.urandom(8).hex()}")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    shutil.rmtree(aside, ignore_errors=True)
