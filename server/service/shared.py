"""A slow check whose concurrent callers share one result (single flight)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

__all__ = ["Shared"]


class Shared:
    """A shared boolean check. Safe to use from several threads.

    Args:
        question: The check to run.
    """

    def __init__(self, question: Callable[[], bool]) -> None:
        self._question, self._lock = question, threading.Lock()
        self._asked: Future[bool] | None = None

    def ask(self) -> bool:
        """Run the check, or wait for the one in flight; returns its result. Raises what the check raises."""
        with self._lock:
            asked, mine = self._asked, self._asked is None
            if asked is None:
                asked = self._asked = Future()
        if mine:
            try:
                asked.set_result(self._question())
            except BaseException as problem:  # whatever it is, the callers that wait must get it too
                asked.set_exception(problem)
            finally:
                with self._lock:
                    self._asked = None
        return asked.result()
