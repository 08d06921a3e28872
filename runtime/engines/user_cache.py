"""Files that engines keep between starts, in a directory of this user alone.

What is stored here is executed when it is read, so only directories and files owned by this user are read or written
(``formats/ownership.py``).
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from isoform.runtime.errors import EngineError
from isoform.runtime.formats import files
from isoform.runtime.formats.ownership import require_own_file, require_own_folder

__all__ = ["cache_directory", "mark_used", "require_own", "store"]

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
