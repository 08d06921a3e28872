"""Progress reports, and the result of a personalization with the evidence for it.

With n held-out samples, w of them wrong before and right after, l right before and wrong after, and half a sample added to each of the
four cells (w* = w + ½, l* = l + ½, n* = n + 2), the 95 % interval of the change in accuracy is d ± 1.96 se, cut off at -1 and 1:

    d = (w* - l*) / n*,      se = √((w* + l*) / n* - d²) / √n*

Unlike Wald's interval, which is (0, 0) where nothing changed, it also covers the true change of few samples in about 95 of 100 cases.
Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions", section 3.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.formats.signature import Signature
from isoform.runtime.learn.fits.folds import groups_per_class
from isoform.runtime.learn.fits.trial import Score
from isoform.runtime.samples.account import plural

__all__ = ["Outcome", "Report", "change_interval", "held_out_groups"]

NORMAL = 1.959964
"""97.5 % quantile of the normal distribution."""


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
    held_back_groups: int = 0
    """Number of groups that were held out whole; 0 if no groups were given, or no class is in two of them."""
    classes_in_one_group: int = 0
    """Number of classes of which random samples were held out although groups were given, because all their samples are in one group.
    The held-out samples then say little about another recording, day or person."""
    parts: tuple[str, ...] = ()
    """What was trained, names of ``Kind.moves``: what was asked for, without what this network has not, or has no gradient for."""
    estimated: bool = False
    """Whether gradients were estimated by forward passes alone, as the network has no backward pass: slower, and learns less."""
    steps: int
    """Number of steps of the best fit."""
    statistics: bool
    """Whether BN statistics were re-estimated from the samples."""
    interpolation: float = 1.0
    """α, 0 to 1: the result is start + α (fit - start), by the held-out samples (WiSE-FT, Wortsman et al. 2022, "Robust fine-tuning of
    zero-shot models"); 1 for the fit as it is, or if there was none."""
    stopped: Literal["", "time", "ctrl-c"]
    """Why the fit stopped early; empty if it did not."""
    seconds: float

    @property
    def change(self) -> tuple[float, float] | None:
        """95 % interval of the change in accuracy on samples like the held-out ones, -1 to 1; None if none were held out.

        Every sample counts the same here. When to stop was chosen by the same samples, so the true change tends to be lower; and where
        samples of a group are alike, the true interval is wider.
        """
        if not self.held_back:
            return None
        won, lost = len(self.after.right - self.before.right), len(self.before.right - self.after.right)
        return change_interval(won, lost, self.held_back)

    def sentence(self, *, unit: str = "group") -> str:
        """Summarise the result in one line.

        Args:
            unit: What a group is, in the singular: ``recording``.
        """
        where = self._where(unit)
        early = {"": "", "time": "; stopped by the time limit", "ctrl-c": "; stopped by Ctrl-C"}[self.stopped]
        if not self.improved:
            return (
                f"no better than its start on {where} (loss {self.before.loss:.3f}, {100 * self.before.accuracy:.1f} % right), "
                f"so the start is returned unchanged{early}"
            )
        mixed = "" if self.interpolation == 1 else f" (interpolated with the start, weight {self.interpolation:g})"
        how = " by forward passes alone" if self.estimated else ""
        what = f"{', '.join(self.parts)}{how} in " if self.parts else ""
        ways = [f"{what}{plural(self.steps, 'step')}{mixed}"] if self.steps else []
        ways += ["re-estimated BN statistics"] if self.statistics else []
        change = ""
        if self.change is not None:
            change = " (95 % interval of the change {:+.0f} to {:+.0f} points)".format(
                *(100 * end for end in self.change)
            )
        return (
            f"{' and '.join(ways)}: on {where} loss {self.before.loss:.3f} -> {self.after.loss:.3f}, "
            f"{100 * self.before.accuracy:.1f} -> {100 * self.after.accuracy:.1f} % right{change}{early}"
        )

    def _where(self, unit: str) -> str:
        """Describe the samples that decided."""
        if not self.held_back:
            return "the samples themselves, too few to hold any out,"
        if not self.held_back_groups and not self.classes_in_one_group:
            return plural(self.held_back, "held-out sample")
        if not self.held_back_groups:
            return f"{plural(self.held_back, 'held-out sample')}, at random because each class is in a single {unit},"
        whole = plural(self.held_back_groups, f"held-out {unit}")
        if not self.classes_in_one_group:
            return f"{plural(self.held_back, 'sample')} of {whole}"
        others = plural(self.classes_in_one_group, "class")
        return f"{plural(self.held_back, 'held-out sample')}, of {whole} and at random of {others} in a single {unit},"


def held_out_groups(labels: Array, groups: Array | None, back: list[Array]) -> tuple[int, int]:
    """Count what was held out by group.

    Args:
        labels: Class indices, shape (n,).
        groups: Group of each sample, shape (n,), int64; None if they are not known.
        back: The result of ``trial.held_back`` for these.

    Returns:
        As ``Outcome.held_back_groups`` and ``Outcome.classes_in_one_group``.
    """
    if groups is None or not back:
        return 0, 0
    rows = np.concatenate(back)
    whole = groups_per_class(labels, groups)[labels[rows]] >= 2
    return len(np.unique(groups[rows[whole]])), len(np.unique(labels[rows[~whole]]))


def change_interval(won: int, lost: int, samples: int) -> tuple[float, float]:
    """Compute the 95 % interval of the change in the share of right predictions.

    Args:
        won: w, samples that became right.
        lost: l, samples that became wrong.
        samples: n, at least ``won + lost``, and 1.

    Returns:
        Its ends, -1 to 1.
    """
    plus, minus, n = won + 0.5, lost + 0.5, samples + 2
    d = (plus - minus) / n
    reach = NORMAL * math.sqrt(((plus + minus) / n - d * d) / n)
    return max(-1.0, d - reach), min(1.0, d + reach)
