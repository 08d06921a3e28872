"""A training run with a domain that has no labels: unsupervised domain adaptation of mixture weights.

All tasks are domains with the same classes, and share one logits layer. The sources train everything but the target's ξ by their labels; of the
target, only its ξ is trained, L·K numbers, so that its features look like the sources' (``discrepancies.py``). Its BN statistics are its own.

The target's logits are the mean of the sources' and an offset, which stays 0 until ``adaptation.begin``: adversarial training starts from an encoder that
answers something, and follows it. Then every step is one update of everything at once: losses of the target see all parameters but ξ_t as constants,
and those of the discriminator and of the second logits layer see the features as constants.

Source: Compositional Models, section 4.4 and Appendix E. ADDA updates discriminator and encoder in one step as well; M3SDA alternates.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from isoform.runtime.errors import RecipeError
from isoform.train.batching.augment import hits
from isoform.train.data.samples import Dataset
from isoform.train.kind import Group, Loss
from isoform.train.kinds.mixture.discrepancies import (
    disagreement,
    discriminator,
    information,
    moment_distance,
    pooled,
    standardised,
)
from isoform.train.kinds.mixture.network import IsometricNetwork
from isoform.train.kinds.mixture.objectives import LEARNED
from isoform.train.kinds.mixture.recipe import AdaptationTable, MixtureRecipe
from isoform.train.kinds.mixture.run import MixtureRun
from isoform.train.schedule import falling

__all__ = ["AdaptationRun"]


class AdaptationRun(MixtureRun):
    """The ``Run`` of a mixture with a target domain.

    Args:
        recipe: The recipe, with a table ``adaptation``.
        datasets: Task → its data. Labels of the target's training samples are not used.

    Raises:
        RecipeError: If domains have different classes, or ξ is fixed or free.
        SpecError: If no network can have these sizes.
    """

    TRAINED = ("offset",)
    """Names of the parameters that the target's losses change."""

    def __init__(self, recipe: MixtureRecipe, datasets: Mapping[str, Dataset]) -> None:
        assert recipe.adaptation is not None
        self._table: AdaptationTable = recipe.adaptation
        self._target = [*datasets].index(self._table.target)
        self._sources = [task for task in range(len(datasets)) if task != self._target]
        classes = datasets[self._table.target].classes
        for name, dataset in datasets.items():
            if dataset.classes != classes:
                raise RecipeError(
                    f"adaptation needs tasks with the same classes, but {name!r} and {self._table.target!r} have {len(dataset.classes)} and "
                    f"{len(classes)}, with other names or in another order"
                )
        if recipe.mixture.signature not in LEARNED and "offset" in self.TRAINED:
            raise RecipeError(
                f"mixture.signature is {recipe.mixture.signature!r}, but with adaptation it is {' or '.join(LEARNED)}"
            )
        super().__init__(recipe, datasets)
        network, generator = self.network, torch.Generator().manual_seed(recipe.seed + 1)
        for task in range(1, len(datasets)):  # the same parameter in many places: all domains have one logits layer
            network.heads[2 * task], network.heads[2 * task + 1] = network.heads[0], network.heads[1]
        # parts of the network, so that checkpoints have them
        self._discriminator = discriminator(network.spec.channels, hidden=self._table.hidden, generator=generator)
        network.add_module("discriminator", self._discriminator)
        like = network.heads[0] if self._table.method == "moments" else network.heads[0][:0]
        self._other = (
            nn.Parameter(torch.randn(like.shape, generator=generator) / like.shape[1] ** 0.5),
            nn.Parameter(torch.zeros(len(like))),
        )
        network.register_parameter("second_weight", self._other[0])
        network.register_parameter("second_bias", self._other[1])
        self._offset = nn.Parameter(torch.zeros_like(network.mixture[0]))
        network.register_parameter("offset", self._offset)
        rows = torch.zeros(len(datasets), 1, 1)
        rows[self._target] = 1
        network.register_buffer("offset_rows", rows, persistent=False)
        self._view = _Parts(network)

    @property
    def adapting(self) -> bool:
        """Whether the adaptation has begun in this step."""
        return self._share >= self._table.begin

    def groups(self) -> list[Group]:
        """As ``Run.groups``: those of a mixture, the target's offset, and the discriminator."""
        inside = {id(p): p for p in self._discriminator.parameters()}
        adapted = {id(p): p for name, p in self.network.named_parameters() if name in self.TRAINED}
        apart = {*inside, *adapted, id(self._offset)}
        found = [
            dataclasses.replace(group, parameters=[p for p in group.parameters if id(p) not in apart and p.numel()])
            for group in super().groups()
        ]
        table, steps = self._table, self._recipe.steps
        used = [*inside.values()] if table.method == "adversarial" else []
        first = math.ceil(table.begin * steps)

        def rate(largest: float, step: int) -> float:
            # 0 before, because the entropy regulariser's gradient is there from the beginning
            return 0.0 if step < first else falling(largest, step - first, steps - first, warmup=1)

        return [
            *found,
            Group(parameters=[*adapted.values()], rate=functools.partial(rate, table.lr), field="adaptation.lr"),
            Group(
                parameters=used, rate=functools.partial(rate, table.discriminator_lr), field="adaptation.discriminator_lr",
                betas=(0.5, 0.999),
            ),
        ]  # fmt: skip

    def begin(self, step: int, optimizer: torch.optim.Optimizer) -> list[range]:
        """As ``Run.begin``; what the target's offset is added to is the sources' mean."""
        self._share = step / self._recipe.steps
        self.network.mixture[self._target] = self.network.mixture[self._sources].mean(0)
        return super().begin(step, optimizer)

    def loss(self, step: int, batches: Mapping[int, tuple[Tensor, Tensor]]) -> Loss:
        """As ``Run.loss``. ``loss`` and ``accuracy`` are the sources', ``discrepancy`` is what the target's ξ lowers."""
        network, table = self.network, self._table
        losses, right, count, found = [], 0, 0, []
        for task in self._sources:
            x, y = batches[task]
            features = network.features(x, task, momentum=self._momentum)
            z = network.embedded(features, task, momentum=self._momentum)
            logits = F.linear(z, network.heads[0], network.heads[1])
            losses.append(F.cross_entropy(logits, y))
            if table.method == "moments":
                losses[-1] = losses[-1] + F.cross_entropy(self._second(z), y)
            right, count = right + int(hits(logits, y).sum()), count + len(y)
            found.append(pooled(features))
        loss = torch.stack(losses).mean()
        features, z = self._of_target(batches[self._target][0])
        total, gap = loss + self._regulariser(step), loss.new_zeros(())
        if self.adapting:
            sources, target = standardised(found, pooled(features))
            gap, trained = getattr(self, f"_{table.method}")(sources, target, z)
            total = total + table.weight * gap + trained
        return Loss(total=total, figures={"loss": loss.item(), "accuracy": right / count, "discrepancy": gap.item()})

    def _of_target(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the target's features and embeddings, which depend on ``TRAINED`` alone; its BN statistics move."""
        found: tuple[Tensor, Tensor] = functional_call(self._view, self.constants(), (x, self._target, self._momentum))
        return found

    def constants(self) -> dict[str, Tensor]:
        """Return what the target's losses must not change."""
        return {
            f"network.{name}": p.detach() for name, p in self.network.named_parameters() if name not in self.TRAINED
        }

    def _adversarial(self, sources: list[Tensor], target: Tensor, _embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of ξ_t and that of the discriminator."""
        judge = self._discriminator
        of_sources, of_target = judge(torch.cat(sources)), judge(target.detach())
        own = F.softplus(of_sources).mean() + F.softplus(-of_target).mean()
        fixed = {name: p.detach() for name, p in judge.named_parameters()}
        fooled = F.softplus(functional_call(judge, fixed, (target,))).mean()
        return fooled, own / 2

    def _moments(self, sources: list[Tensor], target: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of ξ_t, and that of the two logits layers on the target."""
        network = self.network
        fixed = [
            F.linear(embeddings, weight.detach(), bias.detach())
            for weight, bias in ((network.heads[0], network.heads[1]), self._other)
        ]
        constant = embeddings.detach()
        own = disagreement(F.linear(constant, network.heads[0], network.heads[1]), self._second(constant))
        return moment_distance(sources, target) + disagreement(fixed[0], fixed[1]), -own

    def _information(self, _sources: list[Tensor], _target: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of ξ_t, and none."""
        logits = F.linear(embeddings, self.network.heads[0].detach(), self.network.heads[1].detach())
        return information(logits), logits.new_zeros(())

    def _second(self, z: Tensor) -> Tensor:
        return F.linear(z, *self._other)

    @torch.no_grad()
    def finish(self) -> None:
        """As ``Run.finish``; the offset becomes part of the target's logits, and of two logits layers the mean is kept, whose logits are the mean of both."""
        self.network.mixture[self._target] = self.network.mixture[self._sources].mean(0) + self._offset
        self._offset.zero_()
        if self._table.method == "moments":
            for kept, second in zip((self.network.heads[0], self.network.heads[1]), self._other, strict=True):
                kept.copy_((kept + second) / 2)
        super().finish()

    def told(self) -> dict[str, Any]:
        """As ``Run.told``; and which task had no labels."""
        return {**super().told(), "target": self._table.target, "adapted_numbers": self.network.mixture[0].numel()}


class _Parts(nn.Module):
    """A network that returns its features and embeddings, for ``functional_call``, which calls modules."""

    def __init__(self, network: IsometricNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, task: int, momentum: float | None) -> tuple[Tensor, Tensor]:
        features = self.network.features(x, task, momentum=momentum)
        return features, self.network.embedded(features, task, momentum=momentum)
