"""Which tasks share the templates of which layers (Compositional Models, figure 2b): three data sets, each in three ways.

MNIST, KMNIST (only its test split is there: 9,000 images to train on) and EMNIST's letters (500 per class to train on), each as it is (``plain``), as
its boundaries (``edges``) and ``blurred``. If layers organise themselves as the paper says, tasks that see images in the same way share the first
layers, and tasks of the same data set the last ones.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from bench.recipes import recipe_of, trained_on
from isoform.runtime.arrays import Array
from isoform.runtime.kinds.mixture.discrete import xi_of
from isoform.train.data.domains import transform
from isoform.train.data.formats.idx import read_idx, read_idx_folder
from isoform.train.data.samples import Dataset, Split

__all__ = ["SETS", "WAYS", "overlaps", "shared", "statistic"]

SETS, WAYS = ("mnist", "kmnist", "letters"), ("plain", "edges", "blurred")


def shared(seed: int, steps: int, data: str, few: int, bundle: str = "") -> dict[str, Any]:
    """Train all nine tasks, and say what they share.

    Args:
        seed: The recipe's seed.
        steps: Batches of 16 per task.
        data: Folder of the data sets.
        few: Images per data set and half; 0 for all.
        bundle: Where to write the bundle; empty for nowhere.
    """
    datasets = tasks(Path(data), few=few)
    made = trained_on(recipe_of("sharing", [*datasets], {"steps": steps, "seed": seed}), datasets)
    if bundle:
        made.write(bundle)
    xi = np.stack([xi_of(signature.parts) for signature in made.signatures.values()])
    return {
        "names": [*datasets], "xi": np.round(xi, 4).tolist(), "accuracy": made.training["test_accuracy"],
        "mean_max_xi": made.training["mean_max_xi"],
    }  # fmt: skip


def tasks(data: Path, *, few: int = 0) -> dict[str, Dataset]:
    """Read the nine tasks; their names are those of data set and way, with a hyphen."""
    digits = read_idx_folder(data / "mnist")
    assert digits.test is not None
    whole = {"mnist": digits, "kmnist": _kmnist(data / "kmnist"), "letters": _letters(data / "emnist-letters")}
    return {f"{name}-{way}": _seen(dataset, way, few) for name, dataset in whole.items() for way in WAYS}


def overlaps(names: list[str], xi: Array) -> dict[str, Array]:
    """Return how much of a layer's template two tasks have in common, 0 to 1, per layer: of pairs with the same way, the same data set, and neither.

    Args:
        names: Of the tasks.
        xi: ξ, shape (T, L, K).
    """
    found: dict[str, list[Array]] = {"way": [], "set": [], "neither": []}
    for i, j in itertools.combinations(range(len(names)), 2):
        (set_i, way_i), (set_j, way_j) = names[i].split("-"), names[j].split("-")
        kind = "way" if way_i == way_j else "set" if set_i == set_j else "neither"
        found[kind].append(np.minimum(xi[i], xi[j]).sum(-1))
    return {kind: np.mean(values, axis=0) for kind, values in found.items()}


def statistic(names: list[str], xi: Array, *, shuffles: int = 2000, seed: int = 0) -> dict[str, float]:
    """Compute how much more the first half of the layers is shared by the way than by the data set, and the last half the other way round.

    Returns:
        ``gap``, the sum of both differences, and ``p``, the share of shuffled names whose gap is at least as large.
    """

    def gap(order: list[str]) -> float:
        mean, half = overlaps(order, xi), xi.shape[1] // 2
        difference = mean["way"] - mean["set"]
        return float(difference[:half].mean() - difference[half:].mean())

    draws, own = np.random.default_rng(seed), gap(names)
    shuffled = [gap([names[place] for place in draws.permutation(len(names))]) for _ in range(shuffles)]
    return {"gap": own, "p": (1 + sum(value >= own - 1e-12 for value in shuffled)) / (1 + shuffles)}


def _seen(dataset: Dataset, way: str, few: int) -> Dataset:
    halves = [
        Split(images=transform(half.images[: few or None], domain=way), labels=half.labels[: few or None])
        for half in (dataset.train, dataset.test)
        if half is not None
    ]
    return Dataset(train=halves[0], test=halves[1], classes=dataset.classes)


def _kmnist(folder: Path) -> Dataset:
    images, labels = (np.load(folder / f"kmnist-test-{part}.npz")["arr_0"] for part in ("imgs", "labels"))
    return _cut(images, labels.astype(np.int64), 9000, tuple(map(str, range(10))))


def _letters(folder: Path) -> Dataset:
    # stored transposed; labels from 1
    classes = tuple("abcdefghijklmnopqrstuvwxyz")
    halves = []
    for half in ("train-first500perclass", "test"):
        images, labels = (
            read_idx(folder / f"emnist-letters-{half}-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1")
        )
        order = np.random.default_rng(0).permutation(len(labels))
        halves.append(
            Split(images=_scaled(images[order].transpose(0, 2, 1)), labels=labels[order].astype(np.int64) - 1)
        )
    return Dataset(train=halves[0], test=halves[1], classes=classes)


def _cut(images: Array, labels: Array, count: int, classes: tuple[str, ...]) -> Dataset:
    order = np.random.default_rng(0).permutation(len(labels))
    halves = [Split(images=_scaled(images[rows]), labels=labels[rows]) for rows in (order[:count], order[count:])]
    return Dataset(train=halves[0], test=halves[1], classes=classes)


def _scaled(images: Array) -> Array:
    return images[:, None].astype(np.float32) / 255
