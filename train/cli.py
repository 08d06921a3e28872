"""``isoform train``: train by a recipe, with a progress bar, and write a bundle."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from isoform.runtime.errors import IsoformError, UsageError
from isoform.runtime.formats import files
from isoform.runtime.samples.account import plural
from isoform.runtime.samples.names import text_of
from isoform.train.kind import trainer_of
from isoform.train.parallel.place import place_of_environment
from isoform.train.progress import Log, Progress, ReadingBar
from isoform.train.recipe import read_recipe, recipe_names
from isoform.train.reference.flags import PREFIX, add_field_flags, wrapped
from isoform.train.stopping import stopping

if TYPE_CHECKING:
    from isoform.train.loop import Report
    from isoform.train.recipe import Recipe

__all__ = ["add_arguments_train", "run_train"]


def add_arguments_train(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform train``'s arguments: one flag for every recipe field of every kind."""
    parser.usage = "%(prog)s RECIPE -o BUNDLE [--data DIR] [--fresh] [--FIELD VALUE ...]"
    parser.add_argument(
        "recipe", metavar="RECIPE",
        help=wrapped(f"a TOML file ('isoform recipe new' writes one for your data), or a recipe that is shipped: {', '.join(recipe_names())}"),
    )  # fmt: skip
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="BUNDLE",
        help=wrapped("the bundle to write; an existing bundle is replaced when training is done"),
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help=wrapped("folder that holds the recipe's data sets"))
    parser.add_argument(
        "--fresh",
        action="store_true",
        help=wrapped("discard the checkpoint of an interrupted run instead of resuming it"),
    )
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=10.0, metavar="SECONDS", help=wrapped("seconds between two checkpoints (default: 10)")
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, metavar="N", help=wrapped("processes per task that decode images which are not kept in memory (default: half of the processors)")
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto",
        help=wrapped("where to compute; auto is a GPU if there is one, and there the same command gives a slightly other network each time (default: auto)"),
    )  # fmt: skip
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help=wrapped("write the figures of 100 steps to a file, a JSON object per line"),
    )
    add_field_flags(parser)
    parser.epilog = "example:\n  isoform train digits -o bundle/ --seed 1 --network.layers 12"
    parser.epilog += "\n\ntwo processes, with the result of one:\n  torchrun --nproc-per-node 2 --no-python -- isoform train digits -o bundle/"


def run_train(arguments: argparse.Namespace) -> None:
    """Train and write the bundle; print a summary as JSON on stdout."""
    overrides = {
        name.removeprefix(PREFIX): value
        for name, value in vars(arguments).items()
        if name.startswith(PREFIX) and value is not None
    }
    recipe = read_recipe(arguments.recipe, overrides)
    output = arguments.output.absolute()
    if output.exists() and not _is_bundle(output):
        raise UsageError(
            f"{arguments.output} exists and is not a bundle; choose another --output, so that none of its files are lost"
        )
    if arguments.workers is not None and not 0 <= arguments.workers <= 64:
        raise UsageError(f"--workers is {arguments.workers}, but 0 to 64 was expected")
    if not arguments.checkpoint_seconds >= 0:
        raise UsageError(f"--checkpoint-seconds is {arguments.checkpoint_seconds}, but 0 or more was expected")
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent} is not a folder; create it, or choose another --output")
    busy = UsageError(
        f"{arguments.output} is being trained by another process; wait for it to finish, or choose another --output"
    )
    if not place_of_environment().first:  # of several processes the first one writes and prints
        _assist(arguments, recipe, output)
        return
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
    from isoform.train.device import device_named
    from isoform.train.loop import resolved, train

    device_named(arguments.device)  # before data sets are read
    checkpoint = checkpoint_path(output)
    reading = ReadingBar()
    try:
        datasets = load_tasks(recipe.tasks, recipe.data, root=arguments.data, progress=reading)
    finally:
        reading.close()
    for name, dataset in datasets.items():
        print(f"task {name}: {dataset.account.sentence()}", file=sys.stderr)
    recipe = resolved(recipe, datasets)
    counts = ", ".join(f"{name} {len(dataset.train.labels):,}" for name, dataset in datasets.items())
    print(
        f"training {plural(len(datasets), 'task')} ({counts} samples) for {plural(recipe.steps, 'step')}; after Ctrl-C the same command goes on",
        file=sys.stderr,
    )
    started = time.monotonic()
    shown = Progress(
        recipe.steps, samples=recipe.batch * recipe.accumulate * len(datasets), line=trainer_of(recipe).line
    )
    log = contextlib.nullcontext() if arguments.log is None else Log(arguments.log)
    with shown, log as written, stopping() as stop:

        def progress(report: Report) -> None:
            shown(report)
            if written is not None and report.reported:
                written(report)

        try:
            bundle = train(
                recipe, datasets, checkpoint=checkpoint, fresh=arguments.fresh, checkpoint_seconds=arguments.checkpoint_seconds,
                workers=arguments.workers, device=arguments.device, progress=progress, stop=stop,
            )  # fmt: skip
        except KeyboardInterrupt:
            if checkpoint.exists():
                print(
                    f"what was learned is in {text_of(checkpoint_path(arguments.output))}; the same command goes on, --fresh begins anew",
                    file=sys.stderr,
                )
            raise
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


def _assist(arguments: argparse.Namespace, recipe: Recipe, output: Path) -> None:
    """Train as one of several processes, of which another one prints and writes."""
    from isoform.train.checkpoint import checkpoint_path
    from isoform.train.data.load import load_tasks
    from isoform.train.loop import train

    datasets = load_tasks(recipe.tasks, recipe.data, root=arguments.data)
    with stopping(quiet=True) as stop:
        try:
            train(
                recipe, datasets, checkpoint=checkpoint_path(output), fresh=arguments.fresh, workers=arguments.workers, device=arguments.device,
                stop=stop,
            )  # fmt: skip
        except RuntimeError as problem:
            if "onnection" not in str(problem):  # gloo's and NCCL's words for a process that is gone, and has said why
                raise
            raise IsoformError("another process of this run has ended; it says why") from None


def _is_bundle(path: Path) -> bool:
    """Whether a directory is empty or holds nothing but a bundle, so that replacing it loses no other file."""
    known = {"bundle.json", "templates.safetensors", "signatures", "compiled"}
    return path.is_dir() and all(entry.name in known or entry.name.startswith(".compiled.") for entry in path.iterdir())
