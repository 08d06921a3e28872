"""Reading and writing files so that nobody ever sees half of one.

A file is written under a temporary name beside its place, flushed to the disk (fsync), and renamed. A directory is built under
a temporary name and *exchanged* with the old one in one system call (``renameat2`` on Linux, ``renamex_np`` on macOS), so that a
``kill -9`` at any moment leaves the old one or the new one. Left-over temporary names are removed by the next writer.

Imports nothing of isoform but the errors.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoform.runtime.errors import IsoformError

__all__ = ["canonical_json", "read_bytes", "read_json", "replace_directory", "write_bytes"]

_AT_FDCWD = -100
_EXCHANGE = 2


def read_bytes(path: Path, *, limit: int, error: type[IsoformError], what: str) -> bytes:
    """Read a whole file of at most ``limit`` bytes.

    Raises:
        IsoformError: Of the class ``error``, if the file is missing, unreadable, not a file, or larger than the limit.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise error(f"{what} {path} does not exist") from None
    except OSError as problem:
        raise error(f"{what} {path} cannot be read: {problem.strerror}") from None
    if len(data) > limit:
        raise error(f"{what} {path} is larger than the {limit:,} bytes that such a file may have")
    return data


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
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_directory(path.parent)
    except OSError as problem:
        raise IsoformError(f"{path} cannot be written: {problem.strerror}") from None


@contextlib.contextmanager
def replace_directory(path: Path) -> Iterator[Path]:
    """Build a directory beside ``path``, and put it in its place at the end of the block.

    The block gets an empty directory to fill. If it raises, or the process dies, ``path`` stays as it was.

    Raises:
        IsoformError: If the parent directory is missing or not writable, or ``path`` is a file.
    """
    path = Path(os.path.abspath(path))
    if path.exists() and not path.is_dir():
        raise IsoformError(f"{path} is a file, but a directory was to be written there; choose another name")
    prefix = f".{path.name}.new-"
    try:
        for left_over in path.parent.glob(f"{prefix}*"):
            _remove_if_abandoned(left_over)
        temporary = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=path.parent))
        temporary.chmod(0o755)
    except OSError as problem:
        raise IsoformError(f"{path} cannot be written: {problem.strerror}") from None
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync_directory(file)
        _sync_directory(temporary)
        if path.exists():
            _exchange(temporary, path)
        else:
            os.rename(temporary, path)
        _sync_directory(path.parent)
    except OSError as problem:
        raise IsoformError(f"{path} cannot be written: {problem.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_if_abandoned(directory: Path) -> None:
    """Remove a dead writer's temporary directory; a live writer's stays."""
    owner = directory.name.split(".new-", 1)[1].split("-", 1)[0]
    if owner.isdigit() and int(owner) != os.getpid():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(int(owner), 0)
            return
        shutil.rmtree(directory, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    """Flush a file or a directory's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories' names. Atomic where the system can; else two renames, with a moment between them."""
    library = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(new), os.fsencode(old)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        if library.renameat2(_AT_FDCWD, a, _AT_FDCWD, b, _EXCHANGE) == 0:
            return
    elif sys.platform == "darwin" and hasattr(library, "renamex_np") and library.renamex_np(a, b, _EXCHANGE) == 0:
        return
    # Some file systems (overlay, network) refuse the exchange.
    aside = old.with_name(f".{old.name}.new-{os.getpid()}-old")
    os.rename(old, aside)
    os.rename(new, old)
    os.rename(aside, new)
