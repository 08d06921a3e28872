"""The router: which components each task uses, learned by straight-through Gumbel-softmax.

For every task, layer and component there are two logits π = log [p, 1 - p]. A forward pass of training draws

    g = -log(-log u),  u ~ U(0, 1)            z = [π_0 + g_0 > π_1 + g_1]            hard, 0 or 1
    z_soft = softmax((π + g) / T)_0           T = max(T_min, T_0 / √(updates + 1))
    ∂z/∂π := ∂z_soft/∂π                       straight-through

and later passes use the most likely mask, z = [π_0 > π_1]. ``updates`` counts the updates of all tasks. Auxiliary losses, per update and
so for the task of the update (p: probabilities, shape (L, C)):

    budget       λ max(0, mean p - b)         entropy      μ (step / steps)^α Σ H(p)

Source: Gumbel-Matrix, section III; initial values, T, the small constant below and the entropy's ramp:
google-research/learning_parameter_allocation (Apache-2.0), ``pathnet_lib.py`` and ``utils.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from isoform.runtime.kinds.allocation.spec import ModularSpec

__all__ = ["Router", "budget_penalty", "entropy", "temperature"]

TINY = 1e-20  # u may be 0, and so may -log u
"""Added inside both logarithms of the noise."""


def temperature(updates: int, *, start: float, end: float) -> float:
    """Return T after a number of updates: from ``start`` down to ``end``."""
    return max(end, start / math.sqrt(updates + 1))


class Router(nn.Module):
    """Logits of all allocations.

    Args:
        spec: The network's sizes.
        tasks: T, the number of tasks.
        initial: Probability of every component at the start, 0 to 1, both excluded.

    Attributes:
        logits: π, shape (T, L, C, 2).
        exists: Which places of a mask are components, shape (L, C), 0 or 1.
    """

    def __init__(self, spec: ModularSpec, tasks: int, *, initial: float) -> None:
        super().__init__()
        exists = torch.tensor(spec.exists, dtype=torch.float32)
        pair = torch.tensor([math.log(initial), math.log1p(-initial)])
        self.logits = nn.Parameter(pair.repeat(tasks, *exists.shape, 1))
        self.exists: Tensor
        self.register_buffer("exists", exists)

    def sample(self, task: int, *, temperature: float) -> Tensor:
        """Draw a mask of a task, shape (L, C), 0 or 1, from torch's global generator; its gradient is that of the softmax."""
        logits = self.logits[task]
        noisy = logits - torch.log(-torch.log(torch.rand_like(logits) + TINY) + TINY)
        soft = torch.softmax(noisy / temperature, dim=-1)[..., 0]
        hard = (noisy[..., 0] >= noisy[..., 1]).to(soft.dtype)
        # in parentheses, because this difference is exactly 0
        return (hard + (soft - soft.detach())) * self.exists

    def likely(self, task: int) -> Tensor:
        """Return the most likely mask of a task, shape (L, C), 0 or 1."""
        logits = self.logits[task].detach()
        return (logits[..., 0] >= logits[..., 1]).to(logits.dtype) * self.exists

    def probabilities(self, task: int) -> Tensor:
        """Return the probability of every component of a task, shape (L, C); 0 where there is none."""
        return torch.softmax(self.logits[task], dim=-1)[..., 0] * self.exists


def budget_penalty(probabilities: Tensor, exists: Tensor, *, budget: float) -> Tensor:
    """Compute max(0, mean of the probabilities - b), shape (); b is the largest share of components that costs nothing."""
    return torch.relu(probabilities.sum() / exists.sum() - budget)


def entropy(logits: Tensor, exists: Tensor) -> Tensor:
    """Compute the sum of the allocations' entropies, in nats, shape (); ``logits`` of one task, shape (L, C, 2)."""
    each = -(torch.softmax(logits, dim=-1) * torch.log_softmax(logits, dim=-1)).sum(-1)
    return (each * exists).sum()
