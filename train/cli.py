"""``isoform train``: train by a recipe, with a progress bar, and write a bundle."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from isoform.runtime.errors import UsageError
from isoform.runtime.extras import needs
from isoform.runtime.formats import files
from isoform.runtime.samples.account import plural
from isoform.runtime.samples.names import text_of
from isoform.train.kind import trainer_of
from isoform.train.recipe import override_fields, read_recipe, recipe_names

if TYPE_CHECKING:
    from isoform.train.loop import Report
    from isoform.train.recipe import Recipe

__all__ = ["add_arguments_train", "run_train"]


def add_arguments_train(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform train``'s arguments: one flag for every recipe field of every kind."""
    parser.add_argument("recipe", help=f"a TOML file, or a recipe that is shipped: {', '.join(recipe_names())}")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="the bundle to write; an existing bundle is replaced when training is done",
    )
    parser.add_argument("--data", type=Path, help="folder that holds the recipe's data sets")
    parser.add_argument(
        "--fresh", action="store_true", help="discard the checkpoint of an interrupted run instead of resuming it"
    )
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=10.0, help="seconds between two checkpoints (default: 10)"
    )
    fields = parser.add_argument_group("recipe fields; each flag overrides the file")
    for field in override_fields():
        fields.add_argument(f"--{field}", dest=f"field:{field}", metavar="VALUE")
    parser.epilog = "example:\n  isoform train digits -o bundle/ --seed 1 --network.layers 12"


def run_train(arguments: argparse.Namespace) -> None:
    """Train and write the bundle; print a summary as JSON on stdout."""
    overrides = {
        name.removeprefix("field:"): value
        for name, value in vars(arguments).items()
        if name.startswith("field:") and value is not None
    }
    recipe = read_recipe(arguments.recipe, overrides)
    output = arguments.output.absolute()
    if output.exists() and not _is_bundle(output):
        raise UsageError(
            f"{arguments.output} exists and is not a bundle; choose another --output, so that none of its files are lost"
        )
    if not arguments.checkpoint_seconds >= 0:
        raise UsageError(f"--checkpoint-seconds is {arguments.checkpoint_seconds}, but 0 or more was expected")
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent} is not a folder; create it, or choose another --output")
    busy = UsageError(
        f"{arguments.output} is being trained by another process; wait for it to finish, or choose another --output"
    )
    # Two runs to one bundle would write the same checkpoint.
    release = files.hold(output.with_name(f".{output.name}.lock"), busy=busy, remove=True)
    try:
        _train(arguments, recipe, output)
    finally:
        release()


def _train(arguments: argparse.Namespace, recipe: Recipe, output: Path) -> None:
    # Imported here, because they import torch: flags are listed, and mistakes in them reported, without it.
    from isoform.train.checkpoint import checkpoint_path
    from isoform.train.data.load import load_tasks
    from isoform.train.loop import train

    checkpoint = checkpoint_path(output)
    datasets = load_tasks(recipe.tasks, recipe.data, root=arguments.data)
    for name, dataset in datasets.items():
        print(f"task {name}: {dataset.account.sentence()}", file=sys.stderr)
    counts = ", ".join(f"{name} {len(dataset.train.labels):,}" for name, dataset in datasets.items())
    print(
        f"training {plural(len(datasets), 'task')} ({counts} samples) for {plural(recipe.steps, 'step')}; after Ctrl-C the same command resumes",
        file=sys.stderr,
    )
    started = time.monotonic()
    with Progress(recipe.steps, line=trainer_of(recipe).line) as progress:
        bundle = train(
            recipe,
            datasets,
            checkpoint=checkpoint,
            fresh=arguments.fresh,
            checkpoint_seconds=arguments.checkpoint_seconds,
            progress=progress,
        )
    with files.replace_directory(output) as directory:
        bundle.write(directory)
    # Only after the bundle is written: a process killed in between resumes instead of starting anew.
    checkpoint.unlink(missing_ok=True)
    # The summary has the results (scores and the kind's facts); how the bundle was made is recorded in the bundle.
    told = {
        name: value
        for name, value in bundle.training.items()
        if name not in ("recipe", "data", "torch", "history", "record")
    }
    summary = {
        "bundle": text_of(arguments.output), "template": bundle.digest, **told, "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    print(json.dumps(summary))


def _is_bundle(path: Path) -> bool:
    """Whether a directory is empty or holds nothing but a bundle, so that replacing it loses no other file."""
    known = {"bundle.json", "templates.safetensors", "signatures", "compiled"}
    return path.is_dir() and all(entry.name in known or entry.name.startswith(".compiled.") for entry in path.iterdir())


class Progress:
    """A progress bar with the figures of each step; ten plain lines where stderr is no terminal.

    Args:
        steps: Number of steps of the run.
        line: Formats a step's figures (``Trainer.line``).
    """

    def __init__(self, steps: int, *, line: Callable[[Mapping[str, float]], str]) -> None:
        with needs("the progress bar", extra="train"):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self._steps, self._line = steps, line
        self._bar = (
            Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._steps)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, report: Report) -> None:
        """Show a step's report."""
        text = self._line(report.figures)
        if self._bar:
            self._bar.update(self._task, completed=report.step, description=text)
        # Ten lines per run, so that a log stays readable.
        elif report.step * 10 // report.steps > (report.step - 1) * 10 // report.steps:
            print(f"step {report.step:5d} of {report.steps}  {text}", file=sys.stderr, flush=True)
