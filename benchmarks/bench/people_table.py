"""Held-out people: a bundle for each third, every way to personalize for every person and number of samples, and the picture."""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bench import motion
from bench.networks import compile_unverified
from isoform.runtime import Runtime
from isoform.runtime.bundle import Bundle
from isoform.runtime.signature import Signature
from isoform.runtime.spec import Array
from isoform.train.data.samples import Dataset, Split
from isoform.train.loop import train
from isoform.train.recipe import DataRecipe, MixtureRecipe, NetworkRecipe, Recipe, TaskRecipe

__all__ = ["SHOTS", "WAYS", "measure_people", "plot_people", "train_on_people"]

SHOTS = (1, 5, 10, 20)
WAYS: Mapping[str, tuple[str, ...]] = {
    "mixture + BN + head": ("mixture", "bn", "head"), "mixture + head": ("mixture", "head"), "mixture": ("mixture",), "BN": ("bn",),
    "head": ("head",), "all of the network (torch)": (),
}  # fmt: skip
"""Row → what moves; nothing: everything, in torch."""

Result = tuple[str, int, int, float, float, int]
"""Way, shots, person, accuracy before and after in percent (means over draws), bytes of the largest file; 0 if the base was kept."""
DRAWS = {1: 5}
"""How often samples are drawn, by their number: one window per activity is luck. Else once."""

_recordings: motion.Recordings = {}


def train_on_people(recordings: motion.Recordings, third: int, path: Path, *, steps: int) -> Bundle:
    """Templates, and one base signature ``everyone``, of the people that are not held out."""
    people, _ = motion.split_people(third)
    x, labels = motion.all_windows(recordings, people, stride=24)
    split = Split(images=x, labels=labels)
    few = Split(images=x[::50], labels=labels[::50])
    recipe = Recipe(
        steps=steps, batch=64, seed=third, threads=1, data=DataRecipe(input_shape=motion.SHAPE, shift=4),
        network=NetworkRecipe(adapter_kernel=(1, 4)), mixture=MixtureRecipe(entropy=0.0), tasks={"everyone": TaskRecipe(data="folder")},
    )  # fmt: skip
    dataset = Dataset(train=split, test=few, classes=motion.ACTIVITIES)
    bundle = train(recipe, {"everyone": dataset}, checkpoint=path.with_suffix(".checkpoint"), checkpoint_seconds=1e9)
    path.mkdir()
    bundle.write(path)
    return compile_unverified(bundle, path, {})


def measure_people(
    recordings: motion.Recordings, bundle: Bundle, third: int, *, ways: Mapping[str, tuple[int, ...]], steps: int
) -> Iterator[Result]:
    """Every held-out person of a third.

    Args:
        recordings: Of everybody.
        bundle: Trained on the others.
        third: Who is held out.
        ways: Keys of ``WAYS`` → numbers of samples per activity.
        steps: At most so many per fit.
    """
    global _recordings
    _recordings = recordings
    _, held = motion.split_people(third)
    tasks = [
        (str(bundle.path), person, way, shots, steps)
        for way, counts in ways.items()
        for shots in counts
        for person in held
    ]
    context = multiprocessing.get_context("fork")  # the recordings are there already
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        yield from pool.map(_one, tasks)


def _one(task: tuple[str, int, str, int, int]) -> Result:
    path, person, way, shots, steps = task
    test, expected = motion.test_windows(_recordings, person)
    with Runtime.open(path) as runtime:
        base = runtime.signature("everyone")
        before, after, size = _percent(runtime.predict(test, base), expected), [], 0
        for draw in range(DRAWS.get(shots, 1)):
            x, labels = motion.learning_windows(_recordings, person, shots=shots, seed=draw)
            if WAYS[way]:
                outcome = runtime.fit(x, labels, base, parts=WAYS[way], steps=steps, seed=draw)
                logits = runtime.predict(test, outcome.signature)
                size = max(size, len(outcome.signature.encode()) if outcome.improved else 0)
            else:
                logits, size = _fine_tuned(runtime.bundle, base, x, labels, test, draw)
            after.append(_percent(logits, expected))
    return way, shots, person, before, float(np.mean(after)), size


def _fine_tuned(bundle: Bundle, base: Signature, x: Array, labels: Array, test: Array, seed: int) -> tuple[Array, int]:
    """Logits of a network fitted as a whole, and the bytes of its parameters."""
    import torch

    from bench.torch_rival import fine_tuned

    network = fine_tuned(bundle, base, x, labels, seed=seed)
    with torch.no_grad():
        logits: Array = network(torch.from_numpy(test), 0).numpy()
    return logits, sum(parameter.numel() for parameter in network.parameters()) * 4


def _percent(logits: Array, labels: Array) -> float:
    return 100 * float((logits.argmax(axis=1) == labels).mean())


def plot_people(results: list[Result], path: Path) -> None:
    """Mean accuracy by samples for every way, and every person before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    for way, group in itertools.groupby(
        sorted(results, key=lambda r: (list(WAYS).index(r[0]), r[1])), key=lambda r: r[0]
    ):
        by_shots: dict[int, list[float]] = {}
        for _, shots, _, _, after, _ in group:
            by_shots.setdefault(shots, []).append(after)
        left.plot(list(by_shots), [np.mean(values) for values in by_shots.values()], marker="o", label=way)
    left.axhline(
        float(np.mean([r[3] for r in results])), color="#444", linestyle="--", linewidth=1, label="base signature"
    )
    left.set(xlabel="samples per activity", ylabel="mean accuracy in %", xticks=SHOTS)
    left.legend(fontsize=7, frameon=False)
    way, shots = next(iter(WAYS)), 10
    people = sorted((r[3], r[4], r[2]) for r in results if r[0] == way and r[1] == shots)
    for place, (before, after, _) in enumerate(people):
        right.plot([place, place], [before, after], color="#90b4d6", linewidth=3)
    right.plot([p[0] for p in people], "o", color="#444", label="base signature", markersize=4)
    right.plot([p[1] for p in people], "o", color="#2b6cb0", label=f"{way}, {shots} samples per activity", markersize=4)
    right.set(
        xticks=range(len(people)),
        xticklabels=[str(p[2]) for p in people],
        xlabel="person, held out of training",
        ylabel="accuracy in %",
    )
    right.legend(fontsize=7, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def progress(text: str, started: float) -> None:
    """A line of what is done, on stderr."""
    print(f"{time.perf_counter() - started:6.1f} s  {text}", file=sys.stderr)
