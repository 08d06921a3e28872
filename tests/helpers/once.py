"""What the processes of a test run share: a folder that the first one which needs it makes, and the others find."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = ["made_once", "once"]


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Make a folder if nobody has; whoever comes meanwhile waits for it. Its neighbours ``.lock`` and ``.done`` say so.

    Args:
        folder: Which one; its parent is there.
        make: Fills the folder, which is empty. If it raises, the next one who needs the folder begins anew.

    Returns:
        The folder, whole. Nobody may change it.
    """
    done = folder.with_name(f"{folder.name}.done")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a process that dies lets it go
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """``once`` in a folder of this run, whichever of its processes asks."""
    root = factory.getbasetemp()
    return once((root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name, make)
