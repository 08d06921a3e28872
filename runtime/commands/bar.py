"""A progress bar on stderr; prints nothing if stderr is not a terminal. Avoids a dependency of the base package."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

__all__ = ["Bar"]

WIDTH = 30


class Bar:
    """A progress bar as a context manager, which erases the line on exit."""

    def __init__(self) -> None:
        self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            print("\r\033[K", end="", file=sys.stderr, flush=True)  # erases to the end of the line

    def show(self, done: int, total: int, text: str) -> None:
        """Draw the bar at ``done`` of ``total``, followed by a text."""
        full = WIDTH * done // total
        self.say(f"{'█' * full}{'░' * (WIDTH - full)} {text}")

    def say(self, text: str) -> None:
        """Draw a text alone, where the total is not known."""
        if sys.stderr.isatty():
            self._drawn = True
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
