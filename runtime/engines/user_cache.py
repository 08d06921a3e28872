"""Files that engines keep between starts, in a directory of this user alone.

What is stored here is executed when it is read, so only directories and files owned by this user are read or written
(``formats/ownership.py``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

from isoform.runtime.errors import EngineError
from isoform.runtime.formats import files
from isoform.runtime.formats.ownership import require_own_file, require_own_folder

__all__ = ["cache_directory", "mark_used", "read_digested", "require_own", "store", "store_digested"]

LEFT_OVER_S = 3600.0
"""Age in seconds after which a temporary file is assumed to be from a writer that was killed."""


def cache_directory() -> Path:
    """Return ``$ISOFORM_CACHE``, or ``isoform`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. Raises ``EngineError`` without a home directory."""
    if chosen := os.environ.get("ISOFORM_CACHE"):
        return Path(chosen)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    except RuntimeError:
        raise EngineError("there is no home directory; set ISOFORM_CACHE to a directory for plans") from None
    return home / "isoform"


def require_own(path: Path) -> None:
    """Raise ``EngineError`` if a file or its directory exists and belongs to another user."""
    require_own_folder(path.parent)
    require_own_file(path)


def mark_used(path: Path) -> None:
    """Mark a file as used now, if the directory is writable."""
    # the time of modification is the time of last use, for eviction; access times are often disabled
    with contextlib.suppress(OSError):
        os.utime(path)


def store(path: Path, data: bytes, *, pattern: str, kept: int) -> None:
    """Store a file, readable by this user only; remove the least recently used ones, and temporary files of killed writers.

    Args:
        path: The file.
        data: Its content.
        pattern: Pattern of the names of files of its sort.
        kept: Maximum number of those.

    Raises:
        IsoformError: If the directory belongs to another user.
        OSError: If it cannot be written.
    """
    folder = path.parent
    for missing in reversed([step for step in (folder, *folder.parents) if not step.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    require_own_folder(folder)  # again: another user may have created it between the first check and mkdir
    files.write_bytes(path, data, mode=0o600)
    for old in sorted(folder.glob(pattern), key=lambda file: file.stat().st_mtime)[:-kept]:
        old.unlink(missing_ok=True)
    # of any file of its sort: write_bytes removes only those of its own target
    for left in filter(files.is_left_over, folder.glob(f".{pattern}")):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - LEFT_OVER_S:
                left.unlink()


def read_digested(path: Path, *, limit: int, what: str) -> bytes | None:
    """Return what ``store_digested`` has stored, and mark it as used; None if there is no such file, or it is damaged.

    Args:
        path: The file.
        limit: Its largest size, in bytes.
        what: What it is, for messages.

    Raises:
        EngineError: If it belongs to another user, or cannot be read.
    """
    require_own(path)
    if not path.exists():
        return None
    data = files.read_bytes(path, limit=limit, error=EngineError, what=what)
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        return None
    mark_used(path)
    return data[32:]


def store_digested(path: Path, data: bytes, *, pattern: str, kept: int) -> None:
    """Store a file with its sha256 before it; arguments and errors as for ``store``."""
    store(path, hashlib.sha256(data).digest() + data, pattern=pattern, kept=kept)
