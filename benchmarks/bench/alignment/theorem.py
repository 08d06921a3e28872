"""MUIR's theorem 3.2: with proportional sampling the evolution finds the best alignment in a number of generations of order log L.

The judge is the theorem's: a location prefers hypermodule 0 to all others, and its champion to others that are not better. Everything else
is the search that trains networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from isoform.train.kinds.alignment.hypermodules import Hypermodules
from isoform.train.kinds.alignment.search import Search

__all__ = ["LENGTHS", "fitted", "generations"]

LENGTHS = (30, 100, 300, 1000, 3000)
"""Numbers of locations."""


def generations(length: int, seed: int, *, share: float = 1.0, challengers: int = 1) -> int:
    """Return the number of generations until every location uses hypermodule 0."""
    torch.manual_seed(seed)
    search = Search(share=share, challengers=challengers, reactivation=0)
    modules = Hypermodules(
        torch.ones(length), context=1, block=1, challenged=search.challenged(length), challengers=challengers,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    optimizer = torch.optim.Adam([modules.scores])
    for generation in range(1, 100_000):
        search.challenge(modules, optimizer)
        with torch.no_grad():
            modules.scores.copy_((modules.candidates == 0).float())
        search.settle(modules)
        if not modules.alignment.any():
            return generation
    raise AssertionError(length)


def fitted(lengths: Sequence[int], means: Sequence[float]) -> tuple[float, float, float]:
    """Fit a ln L + b to the mean numbers of generations; returns a, b, and the largest distance of a mean from the line in percent of it."""
    logarithms = np.log(lengths)
    slope, start = np.polyfit(logarithms, means, 1)
    line = slope * logarithms + start
    return float(slope), float(start), float(100 * np.abs(np.array(means) / line - 1).max())
