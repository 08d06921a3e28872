"""Validation of a run: measure it at intervals on samples held out of training, keep its best state, and stop when it gets no better.

The state that is kept is the network's before ``Run.finish``, so that BN's final statistics are those of the weights that are chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from isoform.train.kind import Run
from isoform.train.measuring.best import Best
from isoform.train.recipe import ValidationTable

__all__ = ["Validation"]


class Validation(nn.Module):
    """What has been measured so far; a part of a checkpoint.

    Args:
        table: How often to measure, and what to do with it.
        run: Its state is kept.

    Attributes:
        stale: Measurements since the best one, shape (), int64.
        at: Steps after which the best one was made, shape (), int64.
        last: The last score, shape (), float32.
    """

    def __init__(self, table: ValidationTable, run: Run) -> None:
        super().__init__()
        self._table, self._run = table, run
        self.best = Best(run.state())
        self.stale: Tensor
        self.register_buffer("stale", torch.zeros((), dtype=torch.int64))
        self.at: Tensor
        self.register_buffer("at", torch.zeros((), dtype=torch.int64))
        self.last: Tensor
        self.register_buffer("last", torch.zeros(()))

    def measured(self, step: int, steps: int, measure: Callable[[], float]) -> float | None:
        """Measure, if it is time to, and keep the state if it is the best.

        Args:
            step: Number of completed steps.
            steps: Number of steps of the run.
            measure: Returns the mean accuracy on the validation samples.

        Returns:
            The accuracy; None if it is not time to.
        """
        count = self._table.evaluations
        if step * count // steps == (step - 1) * count // steps:
            return None
        score = measure()
        self.last.fill_(score)
        if score > self.best.score:
            self.stale.zero_()
            self.at.fill_(step)
        else:
            self.stale += 1
        self.best.keep(self._run.state(), score)
        return score

    @property
    def done(self) -> bool:
        """Whether the last ``patience`` measurements were no better than one before."""
        return bool(self._table.patience) and int(self.stale) >= self._table.patience

    def settle(self) -> dict[str, float]:
        """Return to the best state, if the recipe says so; returns the accuracy of the state that is kept, and the step of the best one."""
        if self._table.keep == "best":
            self.best.restore(self._run.state())
        kept = self.best.score if self._table.keep == "best" else self.last
        return {"validation_accuracy": round(float(kept), 6), "best_step": int(self.at)}
