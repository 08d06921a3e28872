"""Ctrl-C while training: the step is finished and a checkpoint written, so that nothing is lost; a second one stops at once."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["stopping"]


@contextlib.contextmanager
def stopping(*, quiet: bool = False) -> Iterator[Callable[[], bool]]:
    """Catch SIGINT and SIGTERM inside the block; yields a function that says whether one came. ``quiet`` prints nothing."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield came.is_set
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        if came.is_set():
            raise KeyboardInterrupt
        came.set()
        if not quiet:
            print("stopping after this step; again to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
