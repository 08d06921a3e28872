"""A training run of kind ``allocation``: several tasks, one after the other, which learn which components they use.

Every step is one update per task, in random order, with a mask drawn anew for each (section V). At the end the masks are the most likely
ones, and the probabilities are kept only in the record of the run, for figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from isoform.runtime.errors import SpecError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.allocation.spec import ModularSpec
from isoform.train.batching.augment import hits
from isoform.train.data.normalisation import mean_and_std
from isoform.train.data.samples import Dataset
from isoform.train.kind import Group, Loss
from isoform.train.kinds.allocation.bundling import bundle_from_network
from isoform.train.kinds.allocation.network import ModularNetwork
from isoform.train.kinds.allocation.recipe import AllocationRecipe
from isoform.train.kinds.allocation.router import budget_penalty, entropy, temperature
from isoform.train.measuring.record import is_due, keep_usage, record_of

__all__ = ["AllocationRun", "fixed_masks"]

BETAS = (0.9, 0.999)


class AllocationRun:
    """The ``Run`` of this kind.

    Args:
        recipe: The recipe.
        datasets: Task → its data.

    Raises:
        SpecError: If no network can have these sizes.
    """

    def __init__(self, recipe: AllocationRecipe, datasets: Mapping[str, Dataset]) -> None:
        self._recipe, self._datasets = recipe, datasets
        mean, std = mean_and_std(datasets)
        spec = recipe.spec(mean=mean, std=std)
        classes = tuple(len(dataset.classes) for dataset in datasets.values())
        generator = torch.Generator().manual_seed(recipe.seed)
        self.network = ModularNetwork(spec, classes, initial=recipe.allocation.initial, generator=generator)
        self._fixed = fixed_masks(spec, len(classes), recipe.allocation.routing)

    def groups(self) -> list[Group]:
        """As ``Run.groups``: the weights, and the allocations' logits if they are learned."""
        settings, network = self._recipe.optimizer, self.network
        ratio = settings.allocation_lr_ratio or len(self._datasets)

        def rate(step: int) -> float:  # noqa: ARG001 - constant
            return settings.lr

        def logits_rate(step: int) -> float:  # noqa: ARG001
            return settings.lr * ratio

        weights = [
            parameter for name, parameter in network.named_parameters() if name != "router.logits" and parameter.numel()
        ]
        logits = [] if self._fixed is not None else [network.router.logits]
        return [
            Group(parameters=weights, rate=rate, field="optimizer.lr", betas=BETAS),
            Group(parameters=logits, rate=logits_rate, field="optimizer.allocation_lr_ratio", betas=BETAS),
        ]  # fmt: skip

    def begin(self, step: int, optimizer: torch.optim.Optimizer) -> list[list[int]]:
        """As ``Run.begin``: one update per task, in random order. Records the probabilities ``RECORDS`` times per run."""
        if is_due(step, self._recipe.steps):
            keep_usage(self.network.recorded, self._probabilities(), step=step, steps=self._recipe.steps)
        return [[task] for task in torch.randperm(len(self._datasets)).tolist()]

    def loss(self, step: int, batches: Mapping[int, tuple[Tensor, Tensor]]) -> Loss:
        """As ``Run.loss``; formulas and source in ``router.py``. ``loss`` is the cross-entropy, without penalties."""
        ((task, (x, y)),) = batches.items()
        settings = self._recipe.optimizer
        logits = self.network(x, task, self._drawn(task), dropout=settings.dropout)
        self.network.updates += 1
        loss = F.cross_entropy(logits, y)
        right = hits(logits, y).sum().item()
        return Loss(
            total=loss + self._penalties(step, task), figures={"loss": loss.item(), "accuracy": right / len(y)},
            clip=settings.clip or None,
        )  # fmt: skip

    def _drawn(self, task: int) -> Tensor:
        """Return the mask of an update: the fixed one, or one that is drawn."""
        if self._fixed is not None:
            return self._mask(task)
        table = self._recipe.allocation
        now = temperature(
            int(self.network.updates) // self._recipe.accumulate, start=table.temperature, end=table.temperature_end
        )
        return self.network.router.sample(task, temperature=now)

    def _penalties(self, step: int, task: int) -> Tensor:
        """Compute the auxiliary losses of an update, shape ()."""
        table, router = self._recipe.allocation, self.network.router
        total = torch.zeros(())
        if self._fixed is None:
            if table.budget_weight and table.budget < 1:
                total = total + table.budget_weight * budget_penalty(
                    router.probabilities(task), router.exists, budget=table.budget
                )
            if table.entropy:
                ramp = (step / self._recipe.steps) ** table.entropy_power
                total = total + table.entropy * ramp * entropy(router.logits[task], router.exists)
        if l2 := self._recipe.optimizer.l2:
            total = total + l2 / 2 * sum(weight.square().sum() for weight in self.network.decayed())
        return total

    def figures(self) -> dict[str, float]:
        """As ``Run.figures``: the mean share of components in the most likely masks."""
        masks = torch.stack([self._mask(task) for task in range(len(self._datasets))])
        return {"active_share": float(masks.sum() / (self.network.router.exists.sum() * len(masks)))}

    def state(self) -> list[Tensor]:
        """As ``Run.state``: the parameters; the record of probabilities goes on."""
        return [*self.network.parameters()]

    def finish(self) -> None:
        """As ``Run.finish``: nothing is left to do."""

    def logits(self, x: Tensor, task: int) -> Tensor:
        """As ``Run.logits``: with the most likely mask."""
        found: Tensor = self.network(x, task, self._mask(task))
        return found

    def told(self) -> dict[str, Any]:
        """As ``Run.told``: every task's mask, a text of 0 and 1 per layer, and the mean share of components in use."""
        masks = {
            name: ["".join(map(str, row)) for row in self._mask(task).int().tolist()]
            for task, name in enumerate(self._datasets)
        }
        return {"active_share": round(self.figures()["active_share"], 6), "allocation": masks}

    def bundle(self, training: Mapping[str, Any]) -> Bundle:
        """As ``Run.bundle``."""
        classes = {name: dataset.classes for name, dataset in self._datasets.items()}
        masks = [self._mask(task).numpy().astype(bool) for task in range(len(classes))]
        record: dict[str, Any] = {}
        if self._fixed is None:
            record = record_of(self.network.recorded, self._probabilities(), steps=self._recipe.steps, tasks=[*classes])
        return bundle_from_network(self.network, classes, masks, training={**training, "record": record})

    @torch.no_grad()
    def _probabilities(self) -> Tensor:
        """Return every task's probabilities, shape (T, L, C)."""
        return torch.stack([self.network.router.probabilities(task) for task in range(len(self._datasets))])

    def _mask(self, task: int) -> Tensor:
        return (
            self.network.router.likely(task) if self._fixed is None else self._fixed[task].to(self.network.heads.device)
        )


def fixed_masks(spec: ModularSpec, tasks: int, routing: str) -> Tensor | None:
    """Return the masks of a fixed routing, shape (T, L, C), 0 or 1; None if they are learned.

    ``separate`` gives task i the components i, i + T, …, so that no two tasks share one; layers with fewer components than tasks would
    leave some without: a ``SpecError``.
    """
    exists = torch.tensor(spec.exists, dtype=torch.float32)
    if routing == "learned":
        return None
    if routing == "shared":
        return exists.repeat(tasks, 1, 1)
    fewest = min(len(layer.components) for layer in spec.layers)
    if fewest < tasks:
        raise SpecError(f"a layer has {fewest} components, but without sharing each of the {tasks} tasks needs its own")
    places = torch.arange(spec.widest)
    return torch.stack([exists * (places % tasks == task) for task in range(tasks)])
