"""``align``: your own modules, of any architectures, whose weights are made of the blocks of the same hypermodules.

networks = align({"photos": Subject(module=…, example=…, classes=…), "texts": Subject(…)})
optimizer = torch.optim.Adam(networks.trained())
for step in range(steps):
    if step % 100 == 0:
        networks.generation(optimizer)                      # choose modules, and challenge others
    loss = sum(criterion(logits, labels[task]) for task, logits in networks(samples).items())
    …
networks.settle()
networks.bundle().write("bundle/")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isoform.runtime.errors import UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.train.kinds.alignment.bundling import bundle_from_networks
from isoform.train.kinds.alignment.network import AlignedNetworks, Subject
from isoform.train.kinds.alignment.search import Search

__all__ = ["Aligned", "align"]


def align(
    subjects: Mapping[str, Subject], *, block: tuple[int, int] = (16, 16), context: int = 4, share: float = 0.5, challengers: int = 1,
    alpha: float = 0.5, reactivation: float = 1e-4, seed: int = 0,
) -> Aligned:  # fmt: skip
    """Put blocks of hypermodules under the weights of modules.

    Args:
        subjects: Task → its module; copied. What it computes at first is what the module computes.
        block: Inputs and outputs of a block.
        context: c, numbers by which a place makes its block of a hypermodule; 0 to share blocks as they are.
        share: Share of the places that are challenged in a generation, above 0 to 1.
        challengers: λ, of each of them.
        alpha: Probability that all challengers of a place have together at first.
        reactivation: Probability that a challenger is a hypermodule that no place uses, made anew.
        seed: Of the hypermodules' random numbers.

    Raises:
        UsageError: If there is no task, or a setting is out of range.
        SpecError: If a module cannot be wrapped, or has no weight that blocks divide.
        CompileError: If one cannot be exported.
    """
    if not subjects:
        raise UsageError("there is no task to align, but one or more were expected")
    if min(block) < 1 or context < 0 or challengers < 1 or not 0 < share <= 1 or not 0 < alpha < 1:
        raise UsageError(
            f"block {block}, context {context}, challengers {challengers}, share {share} or alpha {alpha} is out of range: at least 1, 0 and 1, above 0 to 1, "
            "between 0 and 1"
        )
    search = Search(share=share, challengers=challengers, alpha=alpha, reactivation=reactivation)
    networks = AlignedNetworks(
        subjects, m=block[0], n=block[1], context=context, search=search, initial="own", generator=torch.Generator().manual_seed(seed)
    )  # fmt: skip
    return Aligned(networks, search)


class Aligned(nn.Module):
    """Aligned modules; made by ``align``.

    Attributes:
        networks: The modules, hypermodules and contexts.
    """

    def __init__(self, networks: AlignedNetworks, search: Search) -> None:
        super().__init__()
        self.networks, self._search = networks, search
        self.eval()

    def trained(self) -> list[nn.Parameter]:
        """Return everything to train: hypermodules, contexts, scores, and what modules keep of their own."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad and parameter.numel()]

    def forward(self, samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run some tasks: task → samples (n, …), to task → logits (n, classes). Weights are generated once for all of them."""
        weights, places = self.networks.weights(), {task: place for place, task in enumerate(self.networks.tasks)}
        if unknown := sorted({*samples} - {*places}):
            raise UsageError(f"there is no task {unknown[0]!r}; the modules are those of {', '.join(places)}")
        return {task: self.networks.run(places[task], x, weights[places[task]]) for task, x in samples.items()}

    def generation(self, optimizer: torch.optim.Optimizer) -> None:
        """End a generation, and begin the next: challenged places take their most probable module, and others are challenged.

        The optimiser's state of what is new is dropped. Draws from torch's global generator.
        """
        self.settle()
        self._search.challenge(self.networks.hypermodules, optimizer)

    def settle(self) -> None:
        """End a generation; train on for a while before the bundle is made, so that the networks learn to do with their modules."""
        self._search.settle(self.networks.hypermodules)

    def bundle(self, training: Mapping[str, Any] | None = None) -> Bundle:
        """Make a bundle, not yet on disk, with one signature per task.

        Args:
            training: How it was trained, as JSON types, to be recorded in the bundle.

        Raises:
            UsageError: If places are challenged still; call ``settle`` first.
            CompileError: If a graph differs from its module.
        """
        if self.networks.hypermodules.challenging:
            raise UsageError(
                "places are challenged still, so it is not known which modules they use; call settle() first"
            )
        return bundle_from_networks(self.networks, training=training or {})
