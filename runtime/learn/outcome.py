"""Progress reports and the result of a personalization."""

from __future__ import annotations

import dataclasses
from typing import Literal

from isoform.runtime.formats.signature import Signature
from isoform.runtime.learn.trial import Score

__all__ = ["Outcome", "Report"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Progress after a step."""

    step: int
    steps: int
    """Maximum number of steps of all fits together; most fits stop earlier."""
    loss: float
    """Loss of the last batch, in nats."""
    best: float
    """Lowest loss on the held-out samples so far, in nats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a personalization."""

    signature: Signature
    """The resulting signature; the start itself if no fit was better."""
    start: Signature
    improved: bool
    before: Score
    """Score of the start on the held-out samples; on all samples if none could be held out."""
    after: Score
    """Score of the result on the same samples."""
    held_back: int
    """Number of held-out samples; 0 if most classes have a single sample."""
    steps: int
    """Number of steps of the best fit."""
    statistics: bool
    """Whether BN statistics were re-estimated from the samples."""
    stopped: Literal["", "time", "ctrl-c"]
    """Why the fit stopped early; empty if it did not."""
    seconds: float

    def sentence(self) -> str:
        """Summarise the result in one line."""
        where = (
            f"{self.held_back} held-out samples"
            if self.held_back
            else "the samples themselves, too few to hold any out,"
        )
        early = {"": "", "time": "; stopped by the time limit", "ctrl-c": "; stopped by Ctrl-C"}[self.stopped]
        if not self.improved:
            return (
                f"no better than its start on {where} (loss {self.before.loss:.3f}, {100 * self.before.accuracy:.1f} % right), "
                f"so the start is returned unchanged{early}"
            )
        ways = [f"{self.steps} steps"] if self.steps else []
        ways += ["re-estimated BN statistics"] if self.statistics else []
        return (
            f"{' and '.join(ways)}: on {where} loss {self.before.loss:.3f} -> {self.after.loss:.3f}, "
            f"{100 * self.before.accuracy:.1f} -> {100 * self.after.accuracy:.1f} % right{early}"
        )
