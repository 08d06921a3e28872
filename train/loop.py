"""The training run: several tasks at once, one set of templates, a signature for each task.

Every step takes one batch of every task, so that no task is forgotten for the sake of another. At the end BN's statistics are
taken anew over the training samples with the final weights, because the running ones lag behind: that alone is worth a point.

The same recipe and data give the same bytes on the same machine and torch, with or without a ``kill -9`` in between.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from isoform.runtime.arrays import digest_of
from isoform.runtime.errors import DataError, RecipeError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.mixture.discrete import discrete_logits
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.train.batches import Batches
from isoform.train.checkpoint import load_checkpoint, save_checkpoint
from isoform.train.data.samples import Dataset, Split
from isoform.train.kinds.mixture.bundling import bundle_from_network
from isoform.train.kinds.mixture.network import IsometricNetwork
from isoform.train.kinds.mixture.objectives import entropy_regulariser, entropy_weight, learning_rate
from isoform.train.kinds.mixture.patterns import PATTERNS
from isoform.train.recipe import Recipe

__all__ = ["Report", "accuracy", "train"]

REPORTS = 100
"""How many entries a run's history has."""
CALIBRATION_LIMIT = 4096
"""At most so many training samples per task for BN's final statistics."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What is known after a step."""

    step: int
    steps: int
    loss: float
    """Mean cross-entropy of this step's batches, without the regulariser."""
    accuracy: float
    """Share of this step's samples that were right, 0 to 1."""
    mean_max_xi: float
    """Mean over tasks and layers of the largest mixture weight, 1/K to 1."""


def train(
    recipe: Recipe,
    datasets: Mapping[str, Dataset],
    *,
    checkpoint: Path,
    checkpoint_seconds: float = 10.0,
    progress: Callable[[Report], None] | None = None,
) -> Bundle:
    """Train, or go on with a run that was stopped.

    Args:
        recipe: What to do.
        datasets: Task name → its data, both halves, in the recipe's order.
        checkpoint: File for the state of the run. An existing one is continued.
        checkpoint_seconds: How often it is written, in seconds.
        progress: Called after every step.

    Returns:
        A bundle that is not on disk yet, with test accuracies in ``training``.

    Raises:
        DataError: If a training sample is not finite.
        RecipeError: If the loss is not finite any more.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
    """
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    names = list(datasets)
    for name, dataset in datasets.items():
        for half, split in (("training", dataset.train), ("test", dataset.test)):
            if split is None or len(split.labels) == 0:
                raise DataError(f"task {name!r} has no {half} samples")
            finite = np.isfinite(split.images).all(axis=(1, 2, 3))
            if not finite.all():
                raise DataError(
                    f"task {name!r} has {half} samples that are not finite, the first is number {int(np.argmin(finite))}; remove them"
                )
        if len(dataset.train.labels) < 2:
            raise DataError(
                f"task {name!r} has {len(dataset.train.labels)} training sample, but two at least are needed; raise its limit"
            )
    spec = _spec(recipe, datasets)
    network = IsometricNetwork(
        spec, tuple(len(d.classes) for d in datasets.values()), generator=torch.Generator().manual_seed(recipe.seed)
    )
    if recipe.mixture.signature != "learned":
        pattern = PATTERNS[recipe.mixture.signature](spec.layers, spec.templates, seed=recipe.seed)
        network.mixture.data[:] = torch.from_numpy(discrete_logits(pattern, spec.templates))
        network.mixture.requires_grad_(False)
    optimizer = _optimizer(network, recipe)
    data_digests = {name: dataset.digest() for name, dataset in datasets.items()}
    identity = digest_of(
        [recipe.digest().encode(), torch.__version__.encode(), *(digest.encode() for digest in data_digests.values())]
    )
    start, history = load_checkpoint(checkpoint, identity=identity, network=network, optimizer=optimizer)
    batches = [
        Batches(dataset.train, batch=recipe.batch, shift=recipe.data.shift, seed=recipe.seed, task=index)
        for index, dataset in enumerate(datasets.values())
    ]
    saved = time.monotonic()
    for step in range(start, recipe.steps):
        report = _step(step, recipe, network, optimizer, batches)
        if (step + 1) * REPORTS // recipe.steps > step * REPORTS // recipe.steps:
            history.append({k: round(v, 5) for k, v in dataclasses.asdict(report).items() if k != "steps"})
        if progress:
            progress(report)
        if time.monotonic() - saved > checkpoint_seconds:
            save_checkpoint(
                checkpoint, identity=identity, step=step + 1, history=history, network=network, optimizer=optimizer
            )
            saved = time.monotonic()
    _calibrate(network, datasets)
    scores = {
        name: round(accuracy(network, dataset.test, task=index), 6)
        for index, (name, dataset) in enumerate(datasets.items())
        if dataset.test
    }
    xi = network.xi().detach().double()
    training = {
        "recipe": recipe.to_json(), "data": data_digests, "torch": torch.__version__, "test_accuracy": scores,
        "mean_max_xi": round(float(xi.max(-1).values.mean()), 6), "history": history,
    }  # fmt: skip
    return bundle_from_network(network, {name: datasets[name].classes for name in names}, training=training)


def _spec(recipe: Recipe, datasets: Mapping[str, Dataset]) -> NetworkSpec:
    """The network's sizes, with the normalisation taken over all tasks' training samples."""
    means = np.mean(
        [dataset.train.images.mean(axis=(0, 2, 3), dtype=np.float64) for dataset in datasets.values()], axis=0
    )
    squares = np.mean(
        [np.square(dataset.train.images, dtype=np.float64).mean(axis=(0, 2, 3)) for dataset in datasets.values()],
        axis=0,
    )
    mean = tuple(round(float(m), 4) for m in means)
    std = tuple(max(round(math.sqrt(max(s - m * m, 0)), 4), 1e-3) for m, s in zip(means, squares, strict=True))
    return recipe.network.spec(recipe.data.input_shape, mean=mean, std=std)


def _optimizer(network: IsometricNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    free = {"bn_affine", "embedding_bias"} | {f"heads.{index}" for index in range(1, len(network.heads), 2)}
    groups: dict[str, list[torch.nn.Parameter]] = {"weights": [], "free": [], "mixture": []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups["mixture" if name == "mixture" else "free" if name in free else "weights"].append(parameter)
    decays = {"weights": recipe.optimizer.weight_decay, "free": 0.0, "mixture": 0.0}
    return torch.optim.AdamW(
        [{"params": parameters, "weight_decay": decays[name], "name": name} for name, parameters in groups.items() if parameters],
        lr=recipe.optimizer.lr, betas=(0.9, 0.98),
    )  # fmt: skip


def _step(
    step: int, recipe: Recipe, network: IsometricNetwork, optimizer: torch.optim.Optimizer, batches: list[Batches]
) -> Report:
    rate, mixture_rate = learning_rate(step, recipe.steps, recipe.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = mixture_rate if group["name"] == "mixture" else rate
    optimizer.zero_grad()
    losses: list[Tensor] = []
    right = 0
    for task, batch in enumerate(batches):
        x, y = batch[step]
        logits = network(x, task, momentum=recipe.optimizer.bn_momentum)
        losses.append(F.cross_entropy(logits, y))
        right += int((logits.detach().argmax(1) == y).sum())
    loss = torch.stack(losses).mean()
    total = loss + entropy_weight(step, recipe.steps, recipe.mixture) * entropy_regulariser(network.mixture)
    if not math.isfinite(total.item()):
        raise RecipeError(
            f"the loss is {total.item()} at step {step + 1}; look for samples that are not finite, or lower optimizer.lr (now {recipe.optimizer.lr})"
        )
    total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return Report(
        step=step + 1, steps=recipe.steps, loss=loss.item(), accuracy=right / (recipe.batch * len(batches)),
        mean_max_xi=network.xi().detach().max(-1).values.mean().item(),
    )  # fmt: skip


@torch.no_grad()
def _calibrate(network: IsometricNetwork, datasets: Mapping[str, Dataset]) -> None:
    """BN statistics of every task as the mean over its training samples: batch i enters with weight 1/i."""
    for task, dataset in enumerate(datasets.values()):
        # In random order, because data sets on disk are often sorted by class.
        rows = np.random.default_rng(0).permutation(len(dataset.train.labels))[:CALIBRATION_LIMIT]
        images = torch.from_numpy(dataset.train.images[rows])
        for index, part in enumerate(images.chunk(max(1, len(images) // 256))):
            network(part, task, momentum=1 / (index + 1))


@torch.no_grad()
def accuracy(network: IsometricNetwork, split: Split, *, task: int) -> float:
    """Share of a split's samples that the network gets right, 0 to 1."""
    right = [
        (network(torch.from_numpy(x), task).argmax(1).numpy() == y).sum() for x, y in zip(*_chunks(split), strict=True)
    ]
    return float(sum(right) / len(split.labels))


def _chunks(split: Split, size: int = 512) -> tuple[list[Any], list[Any]]:
    places = range(0, len(split.labels), size)
    return [split.images[i : i + size] for i in places], [split.labels[i : i + size] for i in places]
