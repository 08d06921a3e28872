"""The search for ψ: an evolution with 1 + λ candidates at each challenged location, and a softmax that backpropagation trains as its judge.

A generation is ``challenge``, some steps of training, ``settle``:

    challenge   a random share p of the locations gets λ challengers each: the hypermodule of another location, drawn at random, so in
                proportion to use (theorem 3.2); with a small probability one that no location uses, with new random numbers
    settle      each challenged location keeps the candidate with the largest probability, duplicates added up; the first of equals

Source: MUIR, algorithm 1 and section 3.3; the probability of reactivation and α from papers' notes on the authors' configuration.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from isoform.train.kinds.alignment.hypermodules import Hypermodules

__all__ = ["Search"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of the evolution."""

    share: float = 0.5
    """p, share of the locations that are challenged in each generation, above 0 to 1."""
    challengers: int = 1
    """λ, 1 or more."""
    alpha: float | None = None
    """α, probability that all challengers of a location have together at the start; None for equal shares of all candidates."""
    reactivation: float = 1e-4
    """Probability that a challenger is a hypermodule that no location uses, if there is one."""
    choice: Literal["likely", "random"] = "likely"
    """Which candidate is kept: the most probable, or a random one, the paper's control."""

    def challenged(self, locations: int) -> int:
        """Return S, the number of locations that are challenged, of so many."""
        return math.ceil(self.share * locations)

    @torch.no_grad()
    def challenge(self, modules: Hypermodules, optimizer: Optimizer) -> None:
        """Begin a generation; draws from torch's global generator.

        Args:
            modules: Its ``places``, ``candidates`` and ``scores`` are set anew, as are the numbers of hypermodules that become active again.
            optimizer: Its state of the scores is dropped, and that of those hypermodules set to 0.
        """
        count, (chosen, _) = len(modules.alignment), modules.candidates.shape
        # drawn on the processor, so that a GPU sees the same challengers
        modules.places.copy_(torch.randperm(count)[:chosen])
        challengers = modules.alignment[torch.randint(count, (chosen, self.challengers))]
        unused = unused_modules(modules)
        if len(unused):
            revived = torch.rand(chosen, self.challengers) < self.reactivation
            challengers[revived] = unused[torch.randint(len(unused), (int(revived.sum()),))]
            _renew(modules, torch.unique(challengers[revived]), optimizer)
        modules.candidates.copy_(torch.cat([modules.alignment[modules.places][:, None], challengers], dim=1))
        modules.scores.zero_()
        if self.alpha is not None:
            modules.scores[:, 1:] = math.log(self.alpha / self.challengers / (1 - self.alpha))
        optimizer.state.pop(modules.scores, None)
        modules.changed()

    @torch.no_grad()
    def settle(self, modules: Hypermodules) -> None:
        """End a generation: choose each challenged location's hypermodule. Does nothing if none is challenged."""
        if not modules.challenging:
            return
        modules.alignment[modules.places] = self._chosen(modules.candidates, torch.softmax(modules.scores, dim=1))
        modules.places.fill_(-1)
        modules.changed()

    def _chosen(self, candidates: Tensor, share: Tensor) -> Tensor:
        if self.choice == "random":
            best = torch.randint(candidates.shape[1], (len(candidates),)).to(candidates.device)
        else:
            same = candidates[:, :, None] == candidates[:, None]
            best = (share[:, None] * same).sum(2).argmax(1)  # argmax returns the first of equals: the champion
        return candidates.gather(1, best[:, None])[:, 0]


def unused_modules(modules: Hypermodules) -> Tensor:
    """Return the hypermodules that no location uses, shape (n,), int64."""
    return (torch.bincount(modules.alignment, minlength=len(modules.tensors)) == 0).nonzero()[:, 0]


def _renew(modules: Hypermodules, rows: Tensor, optimizer: Optimizer) -> None:
    """Give hypermodules new random numbers, as at the start, and clear what the optimiser remembers of them, and of nothing else."""
    if not len(rows):
        return
    modules.tensors[rows] = (
        torch.randn(len(rows), *modules.tensors.shape[1:]).to(rows.device) * modules.deviations[rows, None, None]
    )
    for value in optimizer.state.get(modules.tensors, {}).values():
        if torch.is_tensor(value) and value.shape == modules.tensors.shape:
            value[rows] = 0.0
