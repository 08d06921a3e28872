"""Whether a writer has replaced a bundle while it was read: which directories lie at its path, before and after."""

from __future__ import annotations

from pathlib import Path

from isoform.runtime.formats import files

__all__ = ["identity", "stood_still"]


def identity(path: Path) -> tuple[tuple[int, int, int] | None, ...]:
    """Which directories lie at a bundle's path, and at its ``compiled``, right now; None where there is none that can be read."""
    return tuple(_stamp(place) for place in (path, path / "compiled"))


def stood_still(path: Path, before: tuple[tuple[int, int, int] | None, ...]) -> bool:
    """Whether no writer has replaced a bundle since ``before``, nor is about to.

    Where a writer needs two renames, there is a moment in which nothing is in place, and the old directory is aside.
    """
    if identity(path) != before:
        return False
    return before[0] is not None or (files.set_aside(path.absolute()) is None and identity(path)[0] is None)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """One look at a path, because between two of them it may go."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns
