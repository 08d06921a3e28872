"""Detects that a bundle was replaced while it was read, by comparing its directories before and after."""

from __future__ import annotations

from pathlib import Path

from isoform.runtime.formats import files

__all__ = ["identity", "stood_still"]


def identity(path: Path) -> tuple[tuple[int, int, int] | None, ...]:
    """Identify the directories that are at a bundle's path and its ``compiled`` now; None for one that cannot be read."""
    return tuple(_stamp(place) for place in (path, path / "compiled"))


def stood_still(path: Path, before: tuple[tuple[int, int, int] | None, ...]) -> bool:
    """Return whether a bundle was not replaced since ``before``, and is not being replaced now."""
    # Between a writer's two renames there is no directory at the path, and the old one is set aside.
    if identity(path) != before:
        return False
    return before[0] is not None or (files.set_aside(path.absolute()) is None and identity(path)[0] is None)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Identify a path with a single system call, because it may disappear between two."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns  # the time: an inode number may be given again
