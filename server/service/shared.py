"""A question that takes a while, asked once for all who ask it at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

__all__ = ["Shared"]


class Shared:
    """A yes-or-no question. Safe to use from several threads.

    Args:
        question: What finds the answer.
    """

    def __init__(self, question: Callable[[], bool]) -> None:
        self._question, self._lock = question, threading.Lock()
        self._asked: Future[bool] | None = None

    def ask(self) -> bool:
        """The answer; of the question that is being asked, if one is. Raises what it raises."""
        with self._lock:
            asked, mine = self._asked, self._asked is None
            if asked is None:
                asked = self._asked = Future()
        if mine:
            try:
                asked.set_result(self._question())
            except BaseException as problem:
                asked.set_exception(problem)
            finally:
                with self._lock:
                    self._asked = None
        return asked.result()
