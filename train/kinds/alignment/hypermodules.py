"""Hypermodules in torch: the blocks of all networks at once, generated from shared tensors (MUIR, equations 5 and 8).

With H_k the hypermodules, shape (c, m · n), z_ℓ the context of location ℓ, shape (c), and ψ(ℓ) the hypermodule that it uses:

    B_ℓ = z_ℓ H_ψ(ℓ)                               a location that is not challenged
    B_ℓ = Σ_i softmax(s_ℓ)_i z_ℓ H_ψi(ℓ)           one that is: the champion ψ0 = ψ, and λ challengers

Both are one batched product, of the contexts times their shares with the candidates' hypermodules one below the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Hypermodules"]


class Hypermodules(nn.Module):
    """K hypermodules and L locations; at the start each location has its own, so K = L.

    Args:
        magnitudes: Value of every number of a location's context at the start, shape (L,): the standard deviation σ of its block's weights.
        context: c, length of a context; 0 for blocks that are shared as they are, of which all contexts are 1.
        block: Values of a block, m · n.
        challenged: S, number of locations that are challenged at a time.
        challengers: λ, challengers of each.
        generator: Random generator for the hypermodules.

    Attributes:
        tensors: The hypermodules, shape (K, c, m · n).
        deviations: Standard deviation of each hypermodule's numbers at the start, shape (K,).
        contexts: z, shape (L, c).
        scores: s, shape (S, 1 + λ).
        alignment: ψ, shape (L,), int64.
        places: The challenged locations, shape (S,), int64; -1 before the first challenge.
        candidates: Their hypermodules, champion first, shape (S, 1 + λ), int64.
    """

    def __init__(
        self, magnitudes: Tensor, *, context: int, block: int, challenged: int, challengers: int, generator: torch.Generator
    ) -> None:  # fmt: skip
        super().__init__()
        count, candidates, plain = len(magnitudes), 1 + challengers, not context
        context = max(context, 1)
        # Var(B) = c · σ² · 1/c = σ². Equation 7 has |z| = σ / (c σ_H); for a sum of independent numbers it is σ / (√c σ_H).
        self.deviations: Tensor
        self.register_buffer(
            "deviations", magnitudes.clone() if plain else torch.full((count,), context**-0.5), persistent=False
        )
        drawn = torch.randn(count, context, block, generator=generator)
        self.tensors = nn.Parameter(drawn * self.deviations[:, None, None])
        self.contexts = nn.Parameter(magnitudes[:, None].repeat(1, context), requires_grad=not plain)
        if plain:
            self.contexts.data.fill_(1)
        self.scores = nn.Parameter(torch.zeros(challenged, candidates))
        self.alignment: Tensor
        self.register_buffer("alignment", torch.arange(count))
        self.places: Tensor
        self.register_buffer("places", torch.full((challenged,), -1))
        self.candidates: Tensor
        self.register_buffer("candidates", torch.zeros(challenged, candidates, dtype=torch.int64))
        self._order: Tensor | None = None

    @torch.no_grad()
    def begin_from(self, blocks: Tensor) -> None:
        """Make every location's hypermodule generate the given block, shape (L, m · n), with the smallest change of its random numbers."""
        context = self.contexts[:, :, None]
        missing = blocks - (context * self.tensors).sum(1)
        self.tensors.add_(missing[:, None] * context / context.square().sum(1, keepdim=True))

    @property
    def challenging(self) -> bool:
        """Whether locations are challenged now."""
        return bool(len(self.places)) and int(self.places[0]) >= 0

    def changed(self) -> None:
        """Forget what was computed from ``alignment``, ``places`` and ``candidates``: call it after every change of them."""
        self._order = None

    def blocks(self) -> Tensor:
        """Generate all blocks, shape (L, m · n); differentiable."""
        if self._order is None:
            self._arrange()
        order = self._order
        if order is None:
            return torch.bmm(self.contexts[:, None], self.tensors[self.alignment])[:, 0]
        share = torch.softmax(self.scores, dim=1)
        mixed = (share[:, :, None] * self.contexts[self.places][:, None]).flatten(1)[:, None]
        tried = torch.bmm(mixed, self.tensors[self.candidates].flatten(1, 2))[:, 0]
        if not len(self._rest):
            return tried[order]
        plain = torch.bmm(self.contexts[self._rest][:, None], self.tensors[self.alignment[self._rest]])[:, 0]
        return torch.cat([plain, tried])[order]

    def _arrange(self) -> None:
        """Compute where each location's block is among those of the locations that are not challenged, and of those that are."""
        if not self.challenging:
            return
        held = torch.ones_like(self.alignment, dtype=torch.bool)
        held[self.places] = False
        self._rest = held.nonzero()[:, 0]
        self._order = torch.argsort(torch.cat([self._rest, self.places]))
