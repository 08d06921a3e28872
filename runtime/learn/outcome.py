"""What a personalization reports on the way, and what comes of it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from isoform.runtime.formats.signature import Signature
from isoform.runtime.learn.trial import Score

__all__ = ["Outcome", "Report"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What is known after a step."""

    step: int
    steps: int
    """At most so many, of all fits together; most end sooner."""
    loss: float
    """Of the last batch, in nats."""
    best: float
    """Loss of the held-back samples at the best step so far, in nats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """A signature, and how it came about."""

    signature: Signature
    """The result; the start itself if nothing was better."""
    start: Signature
    improved: bool
    before: Score
    """How the start does on samples that were held back; on all samples where none could be."""
    after: Score
    """How the result does there."""
    held_back: int
    """How many samples the scores are of that a fit had not seen; 0 if every class has one sample."""
    steps: int
    """Steps of the fit that won."""
    statistics: bool
    """Whether BN's statistics are the samples'."""
    stopped: Literal["", "time", "ctrl-c"]
    """What ended it early."""
    seconds: float

    def sentence(self) -> str:
        """What happened, in a line."""
        where = (
            f"{self.held_back} held-back samples"
            if self.held_back
            else "the samples themselves, too few to hold any back,"
        )
        early = {"": "", "time": "; stopped by the time limit", "ctrl-c": "; stopped by Ctrl-C"}[self.stopped]
        if not self.improved:
            return (
                f"no better than its start on {where} (loss {self.before.loss:.3f}, {100 * self.before.accuracy:.1f} % right), "
                f"so the start is returned unchanged{early}"
            )
        ways = [f"{self.steps} steps"] if self.steps else []
        ways += ["the samples' BN statistics"] if self.statistics else []
        return (
            f"{' and '.join(ways)}: on {where} loss {self.before.loss:.3f} -> {self.after.loss:.3f}, "
            f"{100 * self.before.accuracy:.1f} -> {100 * self.after.accuracy:.1f} % right{early}"
        )
