"""Forty tasks of three families (Gumbel-Matrix, section V-C, figures 5 and 6): which of them use the same components.

    mnist-i, fashion-i      all classes but i, 10 tasks each; 6,000 training images per task here, so that all fit into memory
    cifar-NAME              the five fine classes of a coarse class of CIFAR-100, 20 tasks; 200 training images per class here, the
                            paper has 500

The network is told only which samples are of one task.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.adapting.shifted import photographs
from bench.recipes import recipe_of, trained_on
from isoform.runtime.arrays import Array
from isoform.runtime.commands.figures.tasks import similarity
from isoform.runtime.samples.pictures.images import resize
from isoform.train.data.formats.idx import read_idx_folder
from isoform.train.data.samples import Dataset, Split

__all__ = ["FAMILIES", "clustered"]

FAMILIES = ("cifar", "mnist", "fashion")


def clustered(seed: int, steps: int, data: str, bundle: str, few: bool) -> dict[str, Any]:
    """Train one network on all tasks.

    Args:
        seed: The recipe's seed.
        steps: Batches per task.
        data: Folder of the data sets.
        bundle: Where to write the bundle; empty for nowhere.
        few: Whether to train on two tasks of each family only, with few samples.
    """
    datasets = tasks_of(Path(data), few=few)
    made = trained_on(recipe_of("clusters", list(datasets), {"steps": steps, "seed": seed}), datasets)
    if bundle:
        made.write(bundle)
    masks = {
        name: np.array([[int(bit) for bit in row] for row in rows])
        for name, rows in made.training["allocation"].items()
    }
    cosines, names = similarity(masks), [*masks]
    within, between = list[float](), list[float]()
    for i, j in itertools.combinations(range(len(names)), 2):
        (within if family(names[i]) == family(names[j]) else between).append(float(cosines[i, j]))
    codes = {name: mask.tobytes() for name, mask in masks.items()}
    scores = made.training["test_accuracy"]
    return {
        "codes": {each: len({codes[name] for name in names if family(name) == each}) for each in FAMILIES},
        "tasks": {each: sum(family(name) == each for name in names) for each in FAMILIES},
        "commonest": {each: _commonest([codes[name] for name in names if family(name) == each]) for each in FAMILIES},
        "accuracy": {each: float(np.mean([scores[name] for name in names if family(name) == each])) for each in FAMILIES},
        "similarity": {
            each: float(np.mean([cosines[i, j] for i, j in itertools.combinations(range(len(names)), 2) if family(names[i]) == family(names[j]) == each]))
            for each in FAMILIES
        },
        "within": float(np.mean(within)), "between": float(np.mean(between)), "active_share": made.training["active_share"],
    }  # fmt: skip


def family(task: str) -> str:
    """Return the family of a task's name."""
    return task.split("-")[0]


def _commonest(codes: Sequence[bytes]) -> float:
    """Return the share of tasks that have the code that most have."""
    return max(codes.count(code) for code in codes) / len(codes)


def tasks_of(data: Path, *, few: bool) -> dict[str, Dataset]:
    """Return all tasks: images of 3 × 32 × 32."""
    found: dict[str, Dataset] = {}
    fine = photographs(data)
    with (data / "cifar-100/labels.csv").open() as file:
        coarse = {row["fine_name"]: row["coarse_name"] for row in csv.DictReader(file)}
    for name in sorted(set(coarse.values()))[: 2 if few else None]:
        labels = np.array([label for label, each in enumerate(fine.classes) if coarse[each] == name])
        found[f"cifar-{name.replace(' ', '-').replace(',', '')}"] = _some(fine, labels, few)
    for folder, name in (("mnist", "mnist"), ("fashion-mnist", "fashion")):
        whole = read_idx_folder(data / folder)
        for left_out in range(2 if few else 10):
            found[f"{name}-{left_out}"] = _some(whole, np.delete(np.arange(10), left_out), few)
    return found


def _some(whole: Dataset, labels: Array, few: bool) -> Dataset:
    """Return the samples of some classes, as colour images of 32×32."""
    assert whole.test is not None
    return dataclasses.replace(
        whole, train=_half(whole.train, labels, 500 if few else 6000), test=_half(whole.test, labels, 200 if few else 2000),
        classes=tuple(whole.classes[label] for label in labels),
    )  # fmt: skip


def _half(half: Split, labels: Array, limit: int) -> Split:
    rows = np.flatnonzero(np.isin(half.labels, labels))
    # spread, because files may be sorted by class
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(int))]
    images = half.images[rows]
    if images.shape[1:] != (3, 32, 32):
        grey = np.empty((len(images), 1, 32, 32), dtype=np.float32)
        for target, image in zip(grey, images, strict=True):
            target[:] = resize(image, 32, 32)
        images = np.repeat(grey, 3, axis=1)
    return Split(images=np.ascontiguousarray(images), labels=np.searchsorted(labels, half.labels[rows]))
