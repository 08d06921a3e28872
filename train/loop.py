"""The training run of any kind: data, optimiser, steps, checkpoints and scores. What is trained, its kind says (``kind.py``).

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

from isoform.runtime.arrays import digest_of
from isoform.runtime.errors import DataError, RecipeError
from isoform.runtime.formats.bundle import Bundle
from isoform.train.batches import Batches
from isoform.train.checkpoint import load_checkpoint, save_checkpoint
from isoform.train.data.samples import Dataset, Split
from isoform.train.kind import Group, Run, trainer_of
from isoform.train.recipe import Recipe

__all__ = ["Report", "accuracy", "train"]

REPORTS = 100
"""How many entries a run's history has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What is known after a step."""

    step: int
    """Steps done, from 1."""
    steps: int
    figures: Mapping[str, float]
    """What the kind tells of a step, such as ``loss`` and ``accuracy`` of its batches: the losses' figures, then ``Run.figures``."""


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
    _check(datasets)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as if nothing had been trained
        torch.manual_seed(recipe.seed)
        run = trainer_of(recipe).start(recipe, datasets)
        groups = [group for group in run.groups() if group.parameters]
        optimizer = _optimizer(groups)
        data_digests = {name: dataset.digest() for name, dataset in datasets.items()}
        parts = [recipe.digest(), torch.__version__, *data_digests.values()]
        identity = digest_of([part.encode() for part in parts])
        start, history = load_checkpoint(checkpoint, identity=identity, network=run.network, optimizer=optimizer)
        batches = [
            Batches(dataset.train, batch=recipe.batch, shift=recipe.data.shift, seed=recipe.seed, task=index)
            for index, dataset in enumerate(datasets.values())
        ]
        saved = time.monotonic()
        for step in range(start, recipe.steps):
            _seed(recipe, step)
            report = Report(step=step + 1, steps=recipe.steps, figures=_step(step, run, groups, optimizer, batches))
            if (step + 1) * REPORTS // recipe.steps > step * REPORTS // recipe.steps:
                history.append({"step": report.step, **{k: round(v, 5) for k, v in report.figures.items()}})
            if progress:
                progress(report)
            if time.monotonic() - saved > checkpoint_seconds:
                save_checkpoint(
                    checkpoint, identity=identity, step=step + 1, history=history, network=run.network, optimizer=optimizer
                )  # fmt: skip
                saved = time.monotonic()
        _seed(recipe, recipe.steps)
        run.finish()
        scores = {
            name: round(accuracy(run, dataset.test, task=index), 6)
            for index, (name, dataset) in enumerate(datasets.items())
            if dataset.test
        }
        training: dict[str, Any] = {
            "recipe": recipe.to_json(), "data": data_digests, "torch": torch.__version__, "test_accuracy": scores,
            **run.told(), "history": history,
        }  # fmt: skip
        return run.bundle(training)


def _check(datasets: Mapping[str, Dataset]) -> None:
    """Every half of every task has samples, and all are finite."""
    for name, dataset in datasets.items():
        for half, split in (("training", dataset.train), ("test", dataset.test)):
            if split is None or len(split.labels) == 0:
                raise DataError(f"task {name!r} has no {half} samples")
            finite = np.isfinite(split.images).all(axis=tuple(range(1, split.images.ndim)))
            if not finite.all():
                raise DataError(
                    f"task {name!r} has {half} samples that are not finite, the first is number {int(np.argmin(finite))}; remove them"
                )
        if len(dataset.train.labels) < 2:
            raise DataError(
                f"task {name!r} has {len(dataset.train.labels)} training sample, but two at least are needed; raise its limit"
            )


def _optimizer(groups: list[Group]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [{"params": group.parameters, "weight_decay": group.weight_decay, "betas": group.betas} for group in groups]
    )


def _seed(recipe: Recipe, step: int) -> None:
    """Torch's own generator as a function of (seed, step), so that no random state has to be stored."""
    torch.manual_seed(int(np.random.SeedSequence((recipe.seed, step)).generate_state(1, np.uint64)[0]))


def _step(
    step: int, run: Run, groups: list[Group], optimizer: torch.optim.Optimizer, batches: list[Batches]
) -> dict[str, float]:
    """Train for one step; what to tell of it."""
    rates = [group.rate(step) for group in groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    with torch.no_grad():
        updates = run.begin(step, optimizer)
    told: list[Mapping[str, float]] = []
    for tasks in updates:
        optimizer.zero_grad()
        loss = run.loss(step, {task: batches[task][step] for task in tasks})
        if not math.isfinite(loss.total.item()):
            fields = dict.fromkeys(group.field for group in groups)
            raise RecipeError(
                f"the loss is {loss.total.item()} at step {step + 1}; look for samples that are not finite, or lower {' or '.join(fields)}"
            )
        loss.total.backward()  # type: ignore[no-untyped-call]
        if loss.clip is not None:
            torch.nn.utils.clip_grad_norm_([p for group in groups for p in group.parameters], loss.clip)
        optimizer.step()
        told.append(loss.figures)
    means = {name: sum(figures[name] for figures in told) / len(told) for name in told[0]}
    return {**means, **run.figures()}


@torch.no_grad()
def accuracy(run: Run, split: Split, *, task: int) -> float:
    """Share of a split's samples that the run's network gets right, 0 to 1."""
    places = range(0, len(split.labels), 512)
    right = [
        (run.logits(torch.from_numpy(split.images[i : i + 512]), task).argmax(1).numpy() == split.labels[i : i + 512]).sum()
        for i in places
    ]  # fmt: skip
    return float(sum(right) / len(split.labels))
