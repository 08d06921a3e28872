"""The training loop of any kind: data, optimiser, steps, checkpoints and scores. The kind provides network and loss (``kind.py``).

On the same machine and torch version, the same recipe and data give the same bytes on the processor, even if the run was killed and resumed.
On a GPU a run starts from the same weights and sees the same batches, but kernels may add in another order each time.
Under ``torchrun`` several processes train one network; all return the same bundle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from isoform.runtime.arrays import all_finite, digest_of
from isoform.runtime.errors import DataError, RecipeError
from isoform.runtime.formats.bundle import Bundle
from isoform.train.batching.batches import Batches
from isoform.train.batching.stream import worker_count
from isoform.train.checkpoint import load_checkpoint, save_checkpoint
from isoform.train.data.load import reading_of
from isoform.train.data.pictures import Pictures, chunks, processors
from isoform.train.data.samples import Dataset, Split
from isoform.train.device import autocast, device_named, exact, tensor_of, told_of
from isoform.train.kind import Group, Run, trainer_of
from isoform.train.measuring.validation import Validation
from isoform.train.parallel.place import place_of_environment
from isoform.train.parallel.reduced import alone, any_of, average, check_same, together, wait
from isoform.train.recipe import Recipe

__all__ = ["Report", "accuracy", "resolved", "train"]

MOST_THREADS = 8
"""Threads that are of use to small networks."""
REPORTS = 100
"""Number of entries in a run's history, beside those of measurements on validation samples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Progress after a step."""

    step: int
    """Number of completed steps, from 1."""
    steps: int
    figures: Mapping[str, float]
    """The kind's figures, such as ``loss`` and ``accuracy`` of the batches: those of the losses, then ``Run.figures``."""
    reported: bool = False
    """Whether the step is in the run's history."""
    seconds: float = 0.0
    """Time since the first step of this process."""
    waiting: float = 0.0
    """Share of the time so far that was spent on waiting for images to be decoded."""


def train(
    recipe: Recipe,
    datasets: Mapping[str, Dataset],
    *,
    checkpoint: Path,
    fresh: bool = False,
    checkpoint_seconds: float = 10.0,
    workers: int | None = None,
    device: str = "cpu",
    progress: Callable[[Report], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Bundle:
    """Train, or resume an interrupted run.

    Args:
        recipe: The recipe.
        datasets: Task name → its data, both halves, in the recipe's order.
        checkpoint: File for the state of the run. If it exists, the run resumes from it.
        fresh: Whether to delete a checkpoint that exists and begin anew.
        checkpoint_seconds: Seconds between two checkpoints.
        workers: Processes per task that decode images which are not kept in memory; None for half of the processors.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one. The result is on the processor.
        progress: Called after every step.
        stop: Called after every step; whether to write a checkpoint and raise ``KeyboardInterrupt``.

    Returns:
        A bundle, not yet on disk, with test accuracies in ``training``.

    Raises:
        DataError: If a split of a task has no samples, or a sample is not finite.
        RecipeError: If the loss is no longer finite, or batches cannot be split among the processes.
        UsageError: If there is no such device, or the launcher's variables do not fit each other.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
        KeyboardInterrupt: If ``stop`` says so.
    """
    recipe = resolved(recipe, datasets)
    place = device_named(device)
    exact(place)
    _check_split(recipe)
    _check(datasets, validating=recipe.validation is not None)
    with (
        contextlib.ExitStack() as ending,
        torch.random.fork_rng(devices=[]),  # leaves the caller's random state of the processor as it was
    ):
        among = together(place)
        torch.set_num_threads(recipe.threads or max(1, min(MOST_THREADS, processors() // among.local_count)))
        torch.manual_seed(recipe.seed)
        run = trainer_of(recipe).start(recipe, datasets)
        run.network.to(place)
        groups = [group for group in run.groups() if group.parameters]
        optimizer = _optimizer(groups)
        data_digests = {name: dataset.digest() for name, dataset in datasets.items()}
        # torch's version is part of the identity, because its kernels may round otherwise in the next one.
        parts = [recipe.run_digest(), torch.__version__, *data_digests.values()]
        identity = digest_of([part.encode() for part in parts])
        if (
            fresh and among.first
        ):  # only now: a mistyped flag, a missing data set or an impossible size must not cost a checkpoint
            checkpoint.unlink(missing_ok=True)
        wait()
        validation = None if recipe.validation is None else Validation(recipe.validation, run).to(place)
        kept = run.network if validation is None else nn.ModuleDict({"run": run.network, "validation": validation})
        start, history = load_checkpoint(checkpoint, identity=identity, network=kept, optimizer=optimizer)
        # this also waits: nobody writes the next checkpoint before all have read this one
        check_same(
            [torch.tensor(start), *kept.state_dict().values()], because="all of them have to see the same checkpoint, in the folder of the output"
        )  # fmt: skip
        batches = [
            Batches(
                dataset.train,
                batch=recipe.batch,
                shift=recipe.data.shift,
                seed=recipe.seed,
                task=index,
                steps=recipe.steps * recipe.accumulate,
                workers=max(1, worker_count() // among.local_count) if workers is None else workers,
                augment=recipe.data.augment,
                classes=len(dataset.classes),
                device=place,
            )
            for index, dataset in enumerate(datasets.values())
        ]
        for some in batches:
            ending.callback(some.close)
        saved = began = time.monotonic()
        for step in range(start, recipe.steps):
            _seed(recipe, step)
            if validation is not None and any_of(validation.done):
                break
            figures = _step(step, run, groups, optimizer, batches, parts=recipe.accumulate, precision=recipe.precision)
            if validation is not None:
                score = validation.measured(step + 1, recipe.steps, lambda: _validated(run, datasets))
                figures |= {} if score is None else {"validation": score}
            report = Report(
                step=step + 1, steps=recipe.steps, figures=figures,
                # Evenly spaced by integer division: the same steps whether or not the run was interrupted.
                reported="validation" in figures or (step + 1) * REPORTS // recipe.steps > step * REPORTS // recipe.steps,
                seconds=(passed := time.monotonic() - began), waiting=sum(batch.waited for batch in batches) / max(passed, 1e-9),
            )  # fmt: skip
            if report.reported:
                history.append({"step": report.step, **{k: round(v, 5) for k, v in report.figures.items()}})
            if progress:
                progress(report)
            stopped = any_of(stop is not None and stop())
            # after the last step too: what comes then may take minutes
            due = stopped or step + 1 == recipe.steps or time.monotonic() - saved > checkpoint_seconds
            if due and among.first:
                save_checkpoint(
                    checkpoint, identity=identity, step=step + 1, history=history, network=kept, optimizer=optimizer
                )  # fmt: skip
                saved = time.monotonic()
            if stopped:
                raise KeyboardInterrupt
        check_same(
            kept.state_dict().values(), because="they have to run the same version of torch on the same kind of machine"
        )
        told = {} if validation is None else validation.settle()
        # Seeded as a step is, because finish() may draw random numbers too.
        _seed(recipe, recipe.steps)
        with alone():
            run.finish()
        if any_of(stop is not None and stop()):
            raise KeyboardInterrupt
        scores = {
            name: round(accuracy(run, dataset.test, task=index), 6)
            for index, (name, dataset) in enumerate(datasets.items())
            if dataset.test
        }
        run.network.cpu()
        training: dict[str, Any] = {
            "recipe": recipe.to_json(), "data": data_digests, "torch": torch.__version__, **told_of(place), "test_accuracy": scores,
            **told, **run.told(), "history": history,
        }  # fmt: skip
        return dataclasses.replace(run.bundle(training), reading=reading_of(recipe.data, datasets))


def resolved(recipe: Recipe, datasets: Mapping[str, Dataset]) -> Recipe:
    """Return a recipe with as many steps as its epochs take on some data, and with the digests of what it starts from."""
    return recipe.pinned().with_steps(max(len(dataset.train.labels) for dataset in datasets.values()))


def _check(datasets: Mapping[str, Dataset], *, validating: bool) -> None:
    """Check that every half of every task that is needed has samples and that all are finite. Raises ``DataError``."""
    for name, dataset in datasets.items():
        if validating and dataset.validation is None:
            raise DataError(
                f"task {name!r} has no validation samples, which the recipe's table validation needs; set data.validation_fraction, to 0.1 for example"
            )
        for half, split in (("training", dataset.train), ("test", dataset.test)):
            if split is None or len(split.labels) == 0:
                raise DataError(f"task {name!r} has no {half} samples")
            if isinstance(split.images, Pictures):
                continue  # decoded pixels are finite
            if not all_finite(split.images):
                finite = np.isfinite(split.images).all(axis=tuple(range(1, split.images.ndim)))
                raise DataError(
                    f"task {name!r} has {half} samples that are not finite, the first is number {int(np.argmin(finite))}; remove them"
                )
        if len(dataset.train.labels) < 2:
            raise DataError(
                f"task {name!r} has {len(dataset.train.labels)} training sample, but at least two are needed; raise its limit"
            )


def _check_split(recipe: Recipe) -> None:
    """Check that the processes can share each batch, before they wait for each other. Raises ``RecipeError``."""
    among = place_of_environment()
    if among.count == 1:
        return
    if why := trainer_of(recipe).undivided(recipe):
        raise RecipeError(
            f"a recipe {why} is trained by one process, but this is one of {among.count}; run it without torchrun"
        )
    if recipe.batch % among.count:
        raise RecipeError(f"batch is {recipe.batch}, but {among.count} processes need a multiple of {among.count}")


def _optimizer(groups: list[Group]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [{"params": group.parameters, "weight_decay": group.weight_decay, "betas": group.betas} for group in groups]
    )


def _seed(recipe: Recipe, step: int) -> None:
    """Seed torch's global generator by (seed, step), so that no random state has to be stored."""
    # SeedSequence mixes both numbers: seed + step would give step 1 of seed 0 and step 0 of seed 1 the same draws.
    torch.manual_seed(int(np.random.SeedSequence((recipe.seed, step)).generate_state(1, np.uint64)[0]))


def _step(
    step: int,
    run: Run,
    groups: list[Group],
    optimizer: torch.optim.Optimizer,
    batches: list[Batches],
    *,
    parts: int = 1,
    precision: str = "fp32",
) -> dict[str, float]:
    """Train for one step, whose batches come in so many parts; returns its figures."""
    rates = [group.rate(step) for group in groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    with torch.no_grad():
        updates = run.begin(step, optimizer)
    told: list[Mapping[str, float]] = []
    for tasks in updates:
        optimizer.zero_grad()
        totals: list[Mapping[str, float]] = []
        for part in range(parts):
            samples = {task: batches[task][step * parts + part] for task in tasks}
            with autocast(samples, precision):
                loss = run.loss(step, samples)
            (loss.total / parts).backward()  # type: ignore[no-untyped-call]
            totals.append({"total": loss.total.item(), **loss.figures})
        totals = average([p.grad for group in groups for p in group.parameters], totals)
        # Before the optimiser's step: one update with NaN would spoil every weight and the next checkpoint.
        if worst := [entry["total"] for entry in totals if not math.isfinite(entry["total"])]:
            fields = dict.fromkeys(group.field for group in groups)
            raise RecipeError(
                f"the loss is {worst[0]} at step {step + 1}; look for samples that are not finite, or lower {' or '.join(fields)}"
            )
        told += totals
        if loss.clip is not None:
            torch.nn.utils.clip_grad_norm_([p for group in groups for p in group.parameters], loss.clip)
        optimizer.step()
    means = {name: sum(figures[name] for figures in told) / len(told) for name in told[0] if name != "total"}
    return {**means, **run.figures()}


def _validated(run: Run, datasets: Mapping[str, Dataset]) -> float:
    """Compute the mean accuracy over the tasks' validation samples."""
    halves = [dataset.validation for dataset in datasets.values()]
    return float(np.mean([accuracy(run, half, task=task) for task, half in enumerate(halves) if half is not None]))


@torch.no_grad()
def accuracy(run: Run, split: Split, *, task: int) -> float:
    """Compute the accuracy of the run's network on a split, 0 to 1."""
    place = next(run.network.parameters()).device
    right = [
        (run.logits(tensor_of(split.images[rows]).to(place), task).argmax(1).cpu().numpy() == split.labels[rows]).sum()
        for rows in chunks(split.images, most=512)
    ]
    return float(sum(right) / len(split.labels))
