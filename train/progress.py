"""What a person sees of a run: bars with the figures of each step, or a few plain lines where stderr is no terminal; and a log for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from isoform.runtime.extras import needs

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from isoform.train.loop import Report

__all__ = ["Log", "Progress", "ReadingBar"]


class ReadingBar:
    """A bar while images are read; one for each half of each task. Nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def __call__(self, done: int, of: int) -> None:
        """Show how many images of a half were read."""
        self._bar = self._bar or _bar()
        if self._bar is None:
            return
        if not self._bar.tasks or self._bar.tasks[-1].total != of or self._bar.tasks[-1].finished:
            self._bar.start()
            self._bar.add_task("reading images", total=of)
        self._bar.update(self._bar.tasks[-1].id, completed=done)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()


class Progress:
    """A progress bar with the figures of each step; ten plain lines where stderr is no terminal.

    Args:
        steps: Number of steps of the run.
        samples: Samples per step.
        line: Formats a step's figures (``Trainer.line``).
    """

    def __init__(self, steps: int, *, samples: int, line: Callable[[Mapping[str, float]], str]) -> None:
        self._steps, self._samples, self._line = steps, samples, line
        self._bar = _bar()
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._steps)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, report: Report) -> None:
        """Show a step's report, and the samples per second since the first one."""
        now = time.monotonic()
        since, began = self._first = self._first or (report.step, now)
        text = self._line(report.figures)
        if report.step > since:
            text += f"  {(report.step - since) * self._samples / max(now - began, 1e-9):,.0f} samples/s"
        if report.waiting >= 0.05:
            text += f"  {report.waiting:.0%} waiting for images"
        if self._bar:
            self._bar.update(self._task, completed=report.step, description=text)
        # Ten lines per run, so that a log stays readable.
        elif report.step * 10 // report.steps > (report.step - 1) * 10 // report.steps:
            print(f"step {report.step:5d} of {report.steps}  {text}", file=sys.stderr, flush=True)
        if report.step == report.steps:
            print("final statistics, and the test samples", file=sys.stderr, flush=True)


class Log:
    """A file with one JSON object per line and reported step, which pandas and the like read; an existing file is continued.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._file: TextIO = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __call__(self, report: Report) -> None:
        """Write the figures of a step."""
        line = {
            "step": report.step,
            "of": report.steps,
            "seconds": round(report.seconds, 3),
            "waiting": round(report.waiting, 4),
            **report.figures,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()  # a run may be killed, and its log is wanted most then


def _bar() -> Bar | None:
    """Return a bar of rich, not yet shown; None where stderr is no terminal."""
    with needs("the progress bar", extra="train"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console) if console.is_terminal else None
