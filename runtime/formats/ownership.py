"""Ownership: folders and files that nobody but this user can have written.

What lies in a cache is run. So on the way to it, links followed one by one, everything must belong to this user or to root, and
nobody else may write to it; a folder like ``/tmp``, in which others may write but only touch what is their own (the sticky bit), may
be on the way, not at the end. The folder and the files themselves must be this user's own. POSIX systems only: Windows' users have
folders of their own. Imports nothing of isoform but the errors.
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
_LINKS = 40
"""As many links as Linux follows."""


def require_own_folder(path: Path) -> None:
    """Check a folder, and all that lead to it, as far as they exist; ``EngineError`` if others may write there."""
    if os.name != "posix":
        return
    path = path.absolute()
    try:
        for end, found in _steps(path):
            if found.st_uid not in (0, os.geteuid()):
                raise EngineError(f"{end} belongs to user {found.st_uid}, who is neither you nor root")
            shared = found.st_mode & _OTHERS and not stat.S_ISLNK(found.st_mode)
            if shared and not found.st_mode & stat.S_ISVTX:
                raise EngineError(f"others may write to {end}; run chmod go-w on it")
        found = path.stat()
    except OSError:  # what does not exist, or cannot be seen, holds nothing
        return
    _require_own(path, found)


def require_own_file(path: Path) -> None:
    """Check a file in a folder that was checked, if it exists: this user's own, no link, and nobody else may write to it."""
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
    """Every folder and link on the way to a path, its end included; ``OSError`` at the first that does not exist."""
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
