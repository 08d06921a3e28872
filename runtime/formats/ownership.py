"""Ownership checks: whether folders and files can have been written by this user only.

Files in the cache are executed. So every folder and link on the path must be owned by this user or root, and must not be writable
for others. A world-writable folder with the sticky bit, such as ``/tmp``, is allowed on the path, but not as the cache itself. The
cache folder and its files must be owned by this user. POSIX systems only; on Windows cache directories are per user. Imports nothing
of isoform but the errors.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from isoform.runtime.errors import EngineError

__all__ = ["require_own_file", "require_own_folder"]

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_LINKS = 40  # Linux's own limit
"""Maximum number of symbolic links followed."""


def require_own_folder(path: Path) -> None:
    """Check a folder and its parents, as far as they exist. Raises ``EngineError`` if other users can write there."""
    if os.name != "posix":
        return
    path = path.absolute()
    try:
        for end, found in _steps(path):
            if found.st_uid not in (0, os.geteuid()):
                raise EngineError(f"{end} belongs to user {found.st_uid}, who is neither you nor root")
            shared = found.st_mode & _OTHERS and not stat.S_ISLNK(found.st_mode)  # the mode of a link is always 0o777
            if shared and not found.st_mode & stat.S_ISVTX:
                raise EngineError(f"others may write to {end}; run chmod go-w on it")
        found = path.stat()
    except OSError:  # a path that does not exist or cannot be accessed holds no files to run
        return
    _require_own(path, found)


def require_own_file(path: Path) -> None:
    """Check a file in a checked folder, if it exists: owned by this user, not a link, and not writable for others."""
    if os.name != "posix":
        return
    try:
        found = path.lstat()
    except OSError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise EngineError(f"{path} is not a regular file")
    _require_own(path, found)


def _require_own(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise EngineError(f"{path} belongs to user {found.st_uid}, not to you")
    if found.st_mode & _OTHERS:
        raise EngineError(f"others may write to {path}; run chmod go-w on it")


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every folder and link on a path, its end included. Raises ``OSError`` at the first that does not exist."""
    # os.path.realpath would resolve links without the ownership checks of the folders that contain them
    here, left, links = Path(path.anchor), list(reversed(path.parts[1:])), 0
    yield here, here.lstat()
    while left:
        name = left.pop()
        if name == "..":
            here = here.parent
            continue
        step = here / name
        found = step.lstat()
        yield step, found
        if not stat.S_ISLNK(found.st_mode):
            here = step
            continue
        links += 1
        if links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = step.readlink()
        here = Path(target.anchor) if target.is_absolute() else here
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
