"""A training run of kind ``mixture``: several tasks at once, with shared templates and one signature per task.

Every step is one update over one batch of every task, so that no task is forgotten in favour of another. At the end BN's statistics
are computed again over the training samples with the final weights, because the running ones lag behind; this gains a point of accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from isoform.runtime.formats.bundle import Bundle
from isoform.train.batching.augment import hits
from isoform.train.data.normalisation import mean_and_std
from isoform.train.data.pictures import CHUNK_BYTES
from isoform.train.data.samples import Dataset
from isoform.train.kind import Group, Loss
from isoform.train.kinds.mixture.bundling import bundle_from_network
from isoform.train.kinds.mixture.directions import find_directions
from isoform.train.kinds.mixture.network import IsometricNetwork
from isoform.train.kinds.mixture.objectives import (
    LEARNED,
    attraction_weight,
    entropy_regulariser,
    entropy_weight,
    template_attraction,
    template_cosine,
)
from isoform.train.kinds.mixture.patterns import start_signatures
from isoform.train.kinds.mixture.recipe import MixtureRecipe
from isoform.train.kinds.mixture.starting import moves_statistics, network_to_start, start_bundle
from isoform.train.measuring.record import empty_record, is_due, keep_usage, record_of
from isoform.train.schedule import falling, held

__all__ = ["MixtureRun"]

RECORDED = "recorded"
"""Name of the network's buffer for ξ over time."""
MOST_RECORDED = 1 << 18
"""Bytes beyond which it is not recorded: many tasks of many layers would make ``bundle.json`` large."""
CALIBRATION_LIMIT = 4096
"""Maximum number of training samples per task for BN's final statistics."""


class MixtureRun:
    """The ``Run`` of this kind.

    Args:
        recipe: The recipe.
        datasets: Task → its data.

    Raises:
        SpecError: If no network can have these sizes.
    """

    def __init__(self, recipe: MixtureRecipe, datasets: Mapping[str, Dataset]) -> None:
        self._recipe, self._datasets = recipe, datasets
        classes = {name: dataset.classes for name, dataset in datasets.items()}
        self.network = self._network(classes)
        record = empty_record(*self.network.mixture.shape)
        moving = self.network.mixture.requires_grad or self.network.delta is not None
        if moving and record.numel() <= MOST_RECORDED:
            self.network.register_buffer(RECORDED, record)

    def _network(self, classes: Mapping[str, tuple[str, ...]]) -> IsometricNetwork:
        """Make the network before its first step."""
        recipe, datasets = self._recipe, self._datasets
        self._momentum: float | None = recipe.optimizer.bn_momentum
        self._templates: Bundle | None = None
        if recipe.start is None:
            mean, std = mean_and_std(datasets)
            spec = recipe.network.spec(recipe.data.input_shape, mean=mean, std=std)
            generator = torch.Generator().manual_seed(recipe.seed)
            network = IsometricNetwork(spec, tuple(map(len, classes.values())), generator=generator)
            start_signatures(network, recipe.mixture, seed=recipe.seed)
            return network
        bundle = start_bundle(recipe.start, input_shape=recipe.data.input_shape)
        if "templates" not in recipe.start.trains:
            self._templates = bundle
        if not moves_statistics(recipe.start):
            self._momentum = None
        return network_to_start(recipe, recipe.start, bundle, classes)

    def groups(self) -> list[Group]:
        """As ``Run.groups``: parameters with weight decay, those without (BN, biases), and ξ's logits."""
        settings, steps, network = self._recipe.optimizer, self._recipe.steps, self.network
        warmup = settings.warmup_steps
        free = {"bn_affine", "embedding_bias", "second_bias"} | {
            f"heads.{index}" for index in range(1, len(network.heads), 2)
        }
        found: dict[str, list[torch.nn.Parameter]] = {"weights": [], "free": [], "mixture": [], "delta": []}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                group = name if name in ("mixture", "delta") else "free" if name in free else "weights"
                found[group].append(parameter)

        def weights_rate(step: int) -> float:
            return falling(settings.lr, step, steps, warmup=warmup)

        # Constant after the warm-up, because the choice of templates settles late (``schedule.py``).
        def mixture_rate(step: int) -> float:
            return held(settings.lr * settings.mixture_lr_ratio, step, warmup=warmup)

        def delta_rate(step: int) -> float:
            return falling(settings.lr * settings.mixture_lr_ratio, step, steps, warmup=warmup)

        return [
            Group(parameters=found["weights"], rate=weights_rate, field="optimizer.lr", weight_decay=settings.weight_decay),
            Group(parameters=found["free"], rate=weights_rate, field="optimizer.lr"),
            Group(parameters=found["mixture"], rate=mixture_rate, field="optimizer.mixture_lr_ratio"),
            Group(parameters=found["delta"], rate=delta_rate, field="optimizer.mixture_lr_ratio"),
        ]  # fmt: skip

    def begin(self, step: int, optimizer: torch.optim.Optimizer) -> list[range]:
        """As ``Run.begin``: one update over all tasks. Lowers the temperature, and records ξ."""
        table = self._recipe.mixture
        if table.signature in LEARNED:
            share = step / max(1, self._recipe.steps - 1)
            self.network.temperature.fill_(table.temperature ** (1 - share) * table.temperature_end**share)
        if self._recorded is not None and is_due(step, self._recipe.steps):
            keep_usage(self._recorded, self.network.xi(), step=step, steps=self._recipe.steps)
        return [range(len(self._datasets))]

    def loss(self, step: int, batches: Mapping[int, tuple[Tensor, Tensor]]) -> Loss:
        """As ``Run.loss``; formula and source in ``objectives.py``. ``loss`` is the cross-entropy, without the regularisers."""
        losses: list[Tensor] = []
        right, count = 0, 0
        for task, (x, y) in batches.items():
            logits = self.network(x, task, momentum=self._momentum)
            losses.append(F.cross_entropy(logits, y))
            right += int(hits(logits, y).sum())
            count += len(y)
        loss = torch.stack(losses).mean()
        return Loss(total=loss + self._regulariser(step), figures={"loss": loss.item(), "accuracy": right / count})

    def _regulariser(self, step: int) -> Tensor:
        """Compute what drives mixture weights to single templates, shape ()."""
        network, table, steps = self.network, self._recipe.mixture, self._recipe.steps
        total = entropy_weight(step, steps, table) * entropy_regulariser(network.tempered())
        if table.attraction:
            # of discrete layers by what their gradient is of: one-hot rows attract nothing
            pull = template_attraction(network.tempered().softmax(-1), network.templates)
            total = total + attraction_weight(step, steps, table) * pull
        return total

    def figures(self) -> dict[str, float]:
        """As ``Run.figures``: the mean over tasks and layers of the largest mixture weight, 1/K to 1 unless it is free; and the mean cosine
        between two templates.
        """
        return {"mean_max_xi": self.network.xi().detach().max(-1).values.mean().item(), **self._alike()}

    def _alike(self) -> dict[str, float]:
        templates = self.network.templates.detach()
        return {"template_cosine": template_cosine(templates)} if len(templates) > 1 else {}

    def state(self) -> list[Tensor]:
        """As ``Run.state``; the record of ξ goes on."""
        return [value for name, value in self.network.state_dict().items() if name != RECORDED]

    @property
    def _recorded(self) -> Tensor | None:
        """The record of ξ over time; None if ξ is not trained."""
        return getattr(self.network, RECORDED, None)

    @torch.no_grad()
    def finish(self) -> None:
        """As ``Run.finish``: settle the signatures, recompute every task's BN statistics as the mean over its training samples, then find their
        directions.
        """
        self.network.settle()
        if self._momentum is None:
            return
        for task, dataset in enumerate(self._datasets.values()):
            # In random order, because data sets on disk are often sorted by class.
            rows = np.random.default_rng(0).permutation(len(dataset.train.labels))[:CALIBRATION_LIMIT]
            size = -(-len(rows) // max(1, len(rows) // 256))
            # of large images fewer at once, whose activations would fill the memory
            size = min(size, max(1, CHUNK_BYTES // dataset.train.images[:1].nbytes))
            for index, start in enumerate(range(0, len(rows), size)):
                part = torch.from_numpy(dataset.train.images[rows[start : start + size]]).to(
                    self.network.templates.device
                )
                # Batch i enters with weight 1/i, so that the running mean is the mean of all batches.
                self.network(part, task, momentum=1 / (index + 1))
        count = self.network.spec.bn_directions
        if count and self._templates is None:  # they lie with the templates
            samples = [dataset.train.images for dataset in self._datasets.values()]
            found = find_directions(self.network, samples, count=count, seed=self._recipe.seed)
            self.network.bn_directions.copy_(torch.from_numpy(found))

    def logits(self, x: Tensor, task: int) -> Tensor:
        """As ``Run.logits``."""
        found: Tensor = self.network(x, task)
        return found

    def told(self) -> dict[str, Any]:
        """As ``Run.told``: how nearly one-hot the signatures are."""
        xi = self.network.xi().detach().double()
        alike = {name: round(value, 6) for name, value in self._alike().items()}
        return {"mean_max_xi": round(float(xi.max(-1).values.mean()), 6), **alike}

    def bundle(self, training: Mapping[str, Any]) -> Bundle:
        """As ``Run.bundle``."""
        classes = {name: dataset.classes for name, dataset in self._datasets.items()}
        if self._recorded is not None:
            record = record_of(self._recorded, self.network.xi(), steps=self._recipe.steps, tasks=[*classes])
            training = {**training, "record": record}
        return bundle_from_network(self.network, classes, training=training, start=self._templates)
