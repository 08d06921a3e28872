"""A training run of kind ``alignment``: all tasks at once, and between generations the search for the alignment.

Every step is one update with a batch of every task, whose losses are added up. At the start of a generation the challenged locations get
their new module, the state is kept if its validation loss is the best so far, and other locations are challenged (MUIR, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoform.runtime.formats.bundle import Bundle
from isoform.train.batching.augment import hits
from isoform.train.data.normalisation import mean_and_std
from isoform.train.data.samples import Dataset, Split
from isoform.train.device import tensor_of
from isoform.train.kind import Group, Loss
from isoform.train.kinds.alignment.architectures import DeepBind, LanguageModel, LeNet, WideResNet
from isoform.train.kinds.alignment.bundling import bundle_from_networks
from isoform.train.kinds.alignment.network import AlignedNetworks, Subject, Weights
from isoform.train.kinds.alignment.recipe import AlignmentRecipe, NetworkTable
from isoform.train.kinds.alignment.search import Search
from isoform.train.kinds.alignment.sharing import between_layers, subsets

__all__ = ["AlignmentRun", "task_loss"]

BETAS = (0.9, 0.999)
ROWS = 256
"""Samples per forward pass without gradients."""
RECORDS = 100
"""Number of times at which the alignment is recorded during a run."""


class AlignmentRun:
    """The ``Run`` of this kind.

    Args:
        recipe: The recipe.
        datasets: Task → its data: images, float32, or tokens, int64. The label of a text is the token that follows.

    Raises:
        IsoformError: If no network can have these sizes.
    """

    def __init__(self, recipe: AlignmentRecipe, datasets: Mapping[str, Dataset]) -> None:
        self._recipe, self._datasets = recipe, datasets
        subjects = {name: _subject(recipe.networks[name], dataset) for name, dataset in datasets.items()}
        table, blocks = recipe.search, recipe.blocks
        self._search = Search(
            share=table.share, challengers=table.challengers, alpha=table.alpha, reactivation=table.reactivation
        )  # fmt: skip
        self.network = AlignedNetworks(
            subjects, m=blocks.inputs, n=blocks.outputs, context=blocks.context, search=self._search, initial="fresh",
            generator=torch.Generator().manual_seed(recipe.seed),
        )  # fmt: skip
        self._measures = all(dataset.validation is not None for dataset in datasets.values())
        self.network.remember(times=RECORDS, best=self._measures)
        self._made: Sequence[Weights] | None = None

    @property
    def _generations(self) -> int:
        return -(-self._recipe.steps // self._recipe.search.generation)

    def groups(self) -> list[Group]:
        """As ``Run.groups``: everything that is trained, and the candidates' scores."""
        settings, network = self._recipe.optimizer, self.network
        blocks = network.hypermodules
        weights = [*network.own_parameters(), blocks.tensors]
        weights += [blocks.contexts] if blocks.contexts.requires_grad else []

        def rate(step: int) -> float:  # noqa: ARG001 - constant
            return settings.lr

        def score_rate(step: int) -> float:  # noqa: ARG001
            return settings.score_lr

        scores = [blocks.scores] if blocks.scores.numel() else []
        return [
            Group(parameters=weights, rate=rate, field="optimizer.lr", betas=BETAS),
            Group(parameters=scores, rate=score_rate, field="optimizer.score_lr", betas=BETAS),
        ]  # fmt: skip

    def begin(self, step: int, optimizer: torch.optim.Optimizer) -> list[list[int]]:
        """As ``Run.begin``: one update with all tasks; between generations, the search."""
        table = self._recipe.search
        self._made = None
        if step % table.generation == 0:
            number, blocks = step // table.generation, self.network.hypermodules
            self._settle()
            place = number * RECORDS // self._generations
            if not number or (number - 1) * RECORDS // self._generations < place:
                self.network.recorded[place] = blocks.alignment.int()
            if table.share and table.first <= number < self._generations - table.final:
                self._search.challenge(blocks, optimizer)
        return [[*range(len(self._datasets))]]

    def _settle(self) -> None:
        """End a generation: choose modules, and keep the state if it is the best."""
        self._search.settle(self.network.hypermodules)
        if not self._measures:
            return
        with torch.no_grad():
            weights, losses = self.network.eval().weights(), []
            for task, dataset in enumerate(self._datasets.values()):
                assert dataset.validation is not None
                losses.append(self._mean_loss(task, dataset.validation, weights[task]))
        self.network.best.keep(self.network.state(), -float(np.mean(losses)))

    def _mean_loss(self, task: int, split: Split, weights: Weights) -> float:
        total, count = 0.0, 0
        for start in range(0, len(split.labels), ROWS):
            place = self.network.hypermodules.alignment.device
            x, y = (tensor_of(values[start : start + ROWS]).to(place) for values in (split.images, split.labels))
            total += task_loss(self.network, task, x, y, weights)[0].item() * len(y)
            count += len(y)
        return total / count

    def _restore(self) -> None:
        self.network.best.restore(self.network.state())
        self.network.hypermodules.changed()

    def loss(self, step: int, batches: Mapping[int, tuple[Tensor, Tensor]]) -> Loss:
        """As ``Run.loss``: the sum of the tasks' cross-entropies; ``loss`` and ``accuracy`` are means over tasks."""
        weights, total, losses, shares = self.network.train().weights(), torch.zeros(()), [], []
        for task, (x, y) in batches.items():
            loss, right = task_loss(self.network, task, x, y, weights[task])
            total = total + loss
            losses.append(loss.item())
            shares.append(right)
        return Loss(total=total, figures={"loss": float(np.mean(losses)), "accuracy": float(np.mean(shares))})

    def figures(self) -> dict[str, float]:
        """As ``Run.figures``: the number of modules in use."""
        return {"modules": float(len(np.unique(self._alignment())))}

    def state(self) -> list[Tensor]:
        """As ``Run.state``."""
        return self.network.state()

    def finish(self) -> None:
        """As ``Run.finish``: end the last generation, and return to the best state if there are validation samples."""
        self._settle()
        self._restore()
        self.network.eval()
        self._made = None

    @torch.no_grad()
    def logits(self, x: Tensor, task: int) -> Tensor:
        """As ``Run.logits``."""
        if self._made is None:
            self._made = self.network.eval().weights()
        found: Tensor = self.network.run(task, x, self._made[task])
        return found

    def told(self) -> dict[str, Any]:
        """As ``Run.told``: modules in use, how many each set of tasks shares, and the best validation loss."""
        best = {"validation_loss": round(-float(self.network.best.score), 6)} if self.network.best.any else {}
        return {**best, "modules": int(self.figures()["modules"]), "shared": self._subsets(self._alignment())}

    def bundle(self, training: Mapping[str, Any]) -> Bundle:
        """As ``Run.bundle``; the record has the numbers of modules over time, and the sharing between layers."""
        return bundle_from_networks(self.network, training={**training, "record": self._record()})

    def _alignment(self) -> np.ndarray:
        return self.network.hypermodules.alignment.cpu().numpy()

    def _subsets(self, alignment: np.ndarray) -> dict[str, int]:
        return subsets(alignment, dict(zip(self._datasets, self.network.slices(), strict=True)))

    def _record(self) -> dict[str, Any]:
        """Return the record for figures: MUIR's 3a and 3b."""
        last = self._generations
        numbers = sorted({-(-place * last // RECORDS) for place in range(RECORDS)} - {last})
        rows = [self.network.recorded[number * RECORDS // last].long().cpu().numpy() for number in numbers]
        layers = [
            (f"{task} {name}", cut.count)
            for task, cuts in zip(self._datasets, self.network.cuts, strict=True)
            for name, cut in cuts.items()
        ]
        ends = np.cumsum([count for _, count in layers])
        places = [slice(int(end) - count, int(end)) for end, (_, count) in zip(ends, layers, strict=True)]
        return {
            "generations": [*numbers, last], "shared": [self._subsets(row) for row in [*rows, self._alignment()]],
            "layers": [name for name, _ in layers], "between": np.round(between_layers(self._alignment(), places), 3).tolist(),
        }  # fmt: skip


def task_loss(networks: AlignedNetworks, task: int, x: Tensor, y: Tensor, weights: Weights) -> tuple[Tensor, float]:
    """Return the mean cross-entropy of a task's samples, shape (), and the share of right answers; of texts, over every token."""
    if isinstance(networks.networks[task], LanguageModel):
        logits, _ = networks.run(task, x, weights, every=True)
        # the token after each, the label after the last
        logits, y = logits.flatten(0, 1), torch.cat([x[:, 1:], y[:, None]], dim=1).flatten()
    else:
        logits = networks.run(task, x, weights)
    return F.cross_entropy(logits, y), hits(logits, y).float().mean().item()


def _subject(table: NetworkTable, dataset: Dataset) -> Subject:
    """Return a task's module, with fresh weights."""
    classes, example = dataset.classes, torch.from_numpy(np.array(dataset.train.images[:2]))
    makers: Mapping[str, Callable[[], nn.Module]] = {
        "lenet": lambda: LeNet(len(classes), size=_size(dataset), **_scaling(dataset)),
        "wrn": lambda: WideResNet(len(classes), depth=table.depth, **_scaling(dataset)),
        "lstm": lambda: LanguageModel(len(classes), width=table.width, dropout=table.dropout),
        "deepbind": lambda: DeepBind(len(classes), width=table.width, kernel=table.kernel),
    }
    module = makers[table.type]().eval()
    return Subject(module=module, example=example, classes=classes, aligned=module.aligned)  # type: ignore[arg-type]


def _size(dataset: Dataset) -> tuple[int, int]:
    height, width = dataset.train.images.shape[2:]
    return height, width


def _scaling(dataset: Dataset) -> dict[str, tuple[float, ...]]:
    mean, std = mean_and_std({"": dataset})
    return {"mean": mean, "std": std}
