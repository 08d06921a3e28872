"""Held-out users: a bundle without them, every way to personalize for every one and number of samples, and the picture."""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.optimize import minimize

from bench.learning.torch_rival import fine_tuned
from bench.processes import pool
from bench.product import save_samples, train_and_compile
from isoform.runtime import Runtime
from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.learn.loss import cross_entropy

__all__ = [
    "BASE",
    "EVERYTHING",
    "KILOBYTE",
    "RESCALED",
    "Result",
    "Samples",
    "Study",
    "first_way",
    "measure",
    "plot",
    "progress",
    "train_without",
]

BASE = "everyone"
"""The task that a bundle is trained on."""
EVERYTHING = "all of the network (torch)"
KILOBYTE = "delta + coefficients"
"""The runtime's default: files of less than 1 KiB."""
RESCALED = "head: scale and bias per class"
"""Vector scaling (Guo et al. 2017, "On calibration of modern neural networks"): what a logits layer can do at a mixture's size."""

Samples = tuple[Array, Array]
"""Samples, shape (n, channels, height, width), and n labels, indices of the sorted classes."""

Result = tuple[str, int, str, float, float, int]
"""Way, shots, user, accuracy before and after in percent (means over draws), bytes of the largest file; 0 if the start was kept."""


class Study(Protocol):
    """Data that is split by user."""

    shape: tuple[int, int, int]
    """Of a sample: channels, height, width."""
    kernel: tuple[int, int]
    """Of the stem."""
    shift: int
    """How far training moves samples, in pixels."""
    templates: int
    """K of the network."""
    unit: str
    """What samples are counted per, such as ``activity``."""
    ways: Mapping[str, tuple[str, ...]]
    """Row → what moves; nothing: everything, in torch."""
    shots: tuple[int, ...]
    """Samples per class."""
    draws: Mapping[int, int]
    """How often samples are drawn, by their number; else once."""

    def held_out(self, third: int) -> tuple[str, ...]:
        """The users that are held out; over thirds 0, 1, 2 all are, once."""

    def training(self, third: int) -> tuple[Samples, Samples, tuple[str, ...]]:
        """Samples of all others to train on, samples that the training is tested on, fewer, and the classes."""

    def learning(self, user: str, *, shots: int, seed: int) -> tuple[Array, Array]:
        """Labelled samples of a user to learn from."""

    def testing(self, user: str) -> tuple[Array, Array]:
        """Labelled samples of a user to test on."""

    def classes(self, user: str) -> tuple[str, ...] | None:
        """A user's own classes; None if they are everyone's."""


def train_without(
    study: Study, third: int, path: Path, *, steps: int, network: Mapping[str, int] | None = None
) -> Bundle:
    """Templates, and one base signature ``BASE``, of the users that are not held out, by a recipe; ``network`` says its sizes, else K is the study's."""
    sizes = "".join(f"{name} = {value}\n" for name, value in (network or {"templates": study.templates}).items())
    known, tests, classes = study.training(third)
    with tempfile.TemporaryDirectory(prefix="isoform-held-out-") as folder:
        split = save_samples(Path(folder) / "others.npz", (known, tests), classes)
        recipe = (
            f"steps = {steps}\nbatch = 64\nseed = {third}\nthreads = 1\n\n"
            f"[data]\ninput_shape = {list(study.shape)}\nshift = {study.shift}\n{split}\n"
            f"[network]\nadapter_kernel = {list(study.kernel)}\n{sizes}\n"
            f'[mixture]\nentropy = 0.0\n\n[tasks.{BASE}]\ndata = "files"\npath = "others.npz"\n'
        )
        return train_and_compile(recipe, path, data=Path(folder))


_study: Study


def measure(study: Study, bundle: Bundle, users: tuple[str, ...], *, ways: Mapping[str, tuple[int, ...]], steps: int) -> Iterator[Result]:  # fmt: skip
    """Every way for some users.

    Args:
        study: Where their samples come from.
        bundle: Trained on the others.
        users: Who is held out.
        ways: Keys of the study's ways → numbers of samples per class.
        steps: At most so many per fit.
    """
    global _study
    _study = study
    tasks = [(str(bundle.path), user, way, shots, steps) for way in ways for shots in ways[way] for user in users]
    with pool(2, start="fork") as workers:  # the samples are there already
        yield from workers.map(_one, tasks)


def _one(task: tuple[str, str, str, int, int]) -> Result:
    path, user, way, shots, steps = task
    (test, expected), classes = _study.testing(user), _study.classes(user)
    before, after, size = list[float](), list[float](), 0
    with Runtime.open(path) as runtime:
        base = runtime.signature(BASE)
        for draw in range(_study.draws.get(shots, 1)):
            x, labels = _study.learning(user, shots=shots, seed=draw)
            parts = _study.ways[way] or ("head",)
            outcome = runtime.fit(
                x, labels, base, parts=parts, classes=classes, steps=steps if _study.ways[way] else 1, seed=draw
            )
            logits = runtime.predict(test, outcome.signature)
            if way == RESCALED:
                scale, bias = _rescaled(runtime.predict(x, base), labels)
                logits, size = runtime.predict(test, base) * scale + bias, 4 * (len(scale) + len(bias))
            elif _study.ways[way]:
                size = max(size, len(outcome.signature.encode()) if outcome.improved or classes else 0)
            else:
                logits, size = _everything(runtime, base, x, labels, test, classes, draw)
            before.append(_percent(runtime.predict(test, outcome.start), expected))
            after.append(_percent(logits, expected))
    return way, shots, user, float(np.mean(before)), float(np.mean(after)), size


def _everything(
    runtime: Runtime, base: Signature, x: Array, labels: Array, test: Array, classes: tuple[str, ...] | None, seed: int
) -> tuple[Array, int]:
    """Logits of a network fitted as a whole in torch, and the bytes of its parameters."""
    import torch

    def start(rows: Array) -> Signature:
        if classes is None:
            return base
        return runtime.fit(x[rows], labels[rows], base, parts=("head",), classes=classes, steps=1).start

    network = fine_tuned(runtime.bundle, start, x, labels, seed=seed)
    with torch.no_grad():
        logits: Array = network(torch.from_numpy(test), 0).numpy()
    return logits, sum(parameter.numel() for parameter in network.parameters()) * 4


def _rescaled(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Scale and bias of every class: the smallest loss, and half a squared unit of change per sample."""
    samples, classes = logits.shape

    def loss(numbers: Array) -> tuple[float, Array]:
        scale, bias = numbers.reshape(2, classes)
        value, g = cross_entropy((logits * scale + bias).astype(np.float32), labels)
        change = np.concatenate([scale - 1, bias])
        slope = np.concatenate([(g * logits).sum(axis=0), g.sum(axis=0)]) + change / samples
        return value + float(change @ change) / 2 / samples, slope.astype(np.float64)

    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    scale, bias = minimize(loss, start, jac=True, method="L-BFGS-B").x.reshape(2, classes)
    return scale, bias


def first_way(study: Study, results: list[Result]) -> str:
    """The first of the study's ways that there are results of: the one that figures are about."""
    return next(way for way in study.ways if any(r[0] == way for r in results))


def _percent(logits: Array, labels: Array) -> float:
    return 100 * float((logits.argmax(axis=1) == labels).mean())


def plot(study: Study, results: list[Result], path: Path) -> None:
    """Mean accuracy by samples for every way, and every user before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    for way, group in itertools.groupby(
        sorted(results, key=lambda r: (list(study.ways).index(r[0]), r[1])), key=lambda r: r[0]
    ):
        by_shots: dict[int, list[float]] = {}
        for _, shots, _, _, after, _ in group:
            by_shots.setdefault(shots, []).append(after)
        left.plot(list(by_shots), [np.mean(values) for values in by_shots.values()], marker="o", label=way)
    chosen = first_way(study, results)
    counts = sorted({r[1] for r in results if r[0] == chosen})
    starts = [np.mean([r[3] for r in results if r[:2] == (chosen, shots)]) for shots in counts]
    left.plot(counts, starts, color="#444", linestyle="--", linewidth=1, label="start")
    left.set(xlabel=f"samples per {study.unit}", ylabel="mean accuracy in %", xticks=study.shots)
    left.legend(fontsize=7, frameon=False)
    shots = counts[-1]
    users = sorted((r[3], r[4], r[2]) for r in results if r[:2] == (chosen, shots))
    for place, (before, after, _) in enumerate(users):
        right.plot([place, place], [before, after], color="#90b4d6", linewidth=3)
    right.plot([u[0] for u in users], "o", color="#444", label="start", markersize=4)
    right.plot([u[1] for u in users], "o", color="#2b6cb0", label=f"{chosen}, {shots} per {study.unit}", markersize=4)
    short = all(len(u[2]) < 3 for u in users)
    right.set(xticks=range(len(users)), xlabel="held out of training", ylabel="accuracy in %")
    right.set_xticklabels([u[2] if short else "" for u in users])
    right.legend(fontsize=7, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def progress(text: str, started: float) -> None:
    """A line of what is done, on stderr."""
    print(f"{time.perf_counter() - started:6.1f} s  {text}", file=sys.stderr)
