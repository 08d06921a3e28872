"""Whole training steps of recipes, and of a network whose layers have weights of their own and mix nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from isoform.train.batching.batches import Batches
from isoform.train.data.samples import Dataset, Split
from isoform.train.kind import Run, trainer_of
from isoform.train.kinds.mixture.network import IsometricNetwork
from isoform.train.kinds.mixture.recipe import MixtureRecipe
from isoform.train.recipe import Recipe, read_recipe

__all__ = ["recipe_of", "step_of", "train_alone", "untied_step"]

CLASSES = 10


class Untied(IsometricNetwork):
    """The same network with L templates, of which layer ℓ is the ℓ-th: no mixture weights, no product of matrices."""

    def blocks(self, task: int) -> Tensor:  # noqa: ARG002 - one task
        """As ``IsometricNetwork.blocks``, without mixing."""
        return self.templates


def recipe_of(tasks: int, batch: int, **overrides: str) -> MixtureRecipe:
    """Return the recipe ``digits`` with its network, for so many tasks."""
    recipe = read_recipe("digits", {"batch": str(batch), "threads": "0", **overrides})
    assert isinstance(recipe, MixtureRecipe)
    names = [*recipe.tasks][:tasks]
    return dataclasses.replace(recipe, tasks={name: recipe.tasks[name] for name in names})


def datasets_of(recipe: Recipe) -> dict[str, Dataset]:
    """Return random images of 32×32 pixels with random labels: what a step costs does not depend on them."""
    draws = np.random.default_rng(0)
    count = 2 * recipe.batch
    images = draws.random((count, *recipe.data.input_shape), dtype=np.float32)
    split = Split(images=images, labels=draws.integers(0, CLASSES, count))
    classes = tuple(map(str, range(CLASSES)))
    return {name: Dataset(train=split, test=split, classes=classes) for name in recipe.tasks}


def step_of(recipe: MixtureRecipe, *, compiled: bool = False) -> Callable[[], object]:
    """Return a function that trains for a step, with everything that ``isoform train`` does in one but the progress bar.

    Args:
        recipe: What to train.
        compiled: Whether the network runs through ``torch.compile``.
    """
    datasets = datasets_of(recipe)
    run = trainer_of(recipe).start(recipe, datasets)
    if compiled:
        run.network.forward = torch.compile(run.network.forward)  # type: ignore[method-assign]
    step, at = _step_by_step(run, recipe, datasets), 0

    def next_step() -> None:
        nonlocal at
        step(at)
        at = (at + 1) % recipe.steps

    return next_step


def train_alone(run: Run, recipe: Recipe, datasets: Mapping[str, Dataset]) -> None:
    """Train a run that no kind has, as ``isoform train`` would, without checkpoints and tests.

    Args:
        run: A new run.
        recipe: Its recipe.
        datasets: Its data.
    """
    torch.set_num_threads(recipe.threads or 1)
    step = _step_by_step(run, recipe, datasets)
    for number in range(recipe.steps):
        torch.manual_seed(1_000_003 * recipe.seed + number)
        step(number)
    run.finish()


def _step_by_step(run: Run, recipe: Recipe, datasets: Mapping[str, Dataset]) -> Callable[[int], None]:
    groups = [group for group in run.groups() if group.parameters]
    optimizer = torch.optim.AdamW(
        [{"params": [*g.parameters], "weight_decay": g.weight_decay, "betas": g.betas} for g in groups]
    )
    batches = [
        Batches(data.train, batch=recipe.batch, shift=recipe.data.shift, seed=recipe.seed, task=task)
        for task, data in enumerate(datasets.values())
    ]

    def step(at: int) -> None:
        for entry, group in zip(optimizer.param_groups, groups, strict=True):
            entry["lr"] = group.rate(at)
        with torch.no_grad():
            updates = run.begin(at, optimizer)
        for tasks in updates:
            optimizer.zero_grad()
            loss = run.loss(at, {task: batches[task][at] for task in tasks})
            loss.total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return step


def untied_step(recipe: MixtureRecipe, *, compiled: bool = False) -> Callable[[], object]:
    """Return a function that trains a network with as many layers and no mixture for a step, with the same optimiser, in plain torch."""
    spec = dataclasses.replace(recipe.network, templates=recipe.network.layers).spec(
        recipe.data.input_shape, mean=(0.5,), std=(0.5,)
    )
    network = Untied(spec, (CLASSES,), generator=torch.Generator().manual_seed(0))
    network.mixture.requires_grad_(False)
    forward = torch.compile(network) if compiled else network
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.02)
    (dataset,) = datasets_of(recipe).values()
    x, y = (
        torch.from_numpy(dataset.train.images[: recipe.batch]),
        torch.from_numpy(dataset.train.labels[: recipe.batch]),
    )

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(forward(x, 0, momentum=0.1), y)
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()
        optimizer.step()

    return step
