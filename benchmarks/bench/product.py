"""Bundles as the commands make them: ``isoform train`` by a recipe in TOML and files on the disk, ``isoform compile`` with its verification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isoform.compile.build import compile_bundle
from isoform.runtime.arrays import Array
from isoform.runtime.formats import files
from isoform.runtime.formats.bundle import Bundle
from isoform.train.data.load import load_tasks
from isoform.train.loop import train
from isoform.train.recipe import read_recipe

__all__ = ["save_samples", "train_and_compile"]

TRAIN, TEST = "train", "test"
"""Groups of ``save_samples``."""
SETTLED = 500
"""Steps from which on a run is held to the compiler's default."""


def train_and_compile(recipe: str, path: Path, *, data: Path) -> Bundle:
    """Train and compile; the recipe is printed to stdout, and kept beside the bundle.

    Args:
        recipe: TOML.
        path: Where the bundle goes; its folder is made.
        data: As ``--data``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f"{path.name}.toml")
    file.write_text(recipe)
    print(f"# isoform train {file.name} -o {path.name}/ --data DIR; isoform compile {path.name}/ --data DIR\n{recipe}")
    read = read_recipe(str(file), {})
    datasets = load_tasks(read.tasks, read.data, root=data)
    bundle = train(
        read, datasets, checkpoint=path.with_name(f".{path.name}.checkpoint"), checkpoint_seconds=1e9
    )  # fmt: skip
    with files.replace_directory(path) as directory:
        bundle.write(directory)
    # As --max-drop: after a short run the choices of templates are not settled yet, and snapping them costs accuracy.
    compile_bundle(path, data=data, max_drop_points=0.5 if read.steps >= SETTLED else 100)
    return Bundle.load(path)


def save_samples(path: Path, halves: Sequence[tuple[Array, Array]], classes: Sequence[str]) -> str:
    """Write training and test samples as one ``.npz`` for ``data = "files"``, and return the lines of ``[data]`` that keep that split.

    The halves are two groups, so that a recipe that holds out a group of the tests' share holds out exactly the tests.

    Args:
        path: The file; its folder is made.
        halves: Samples and labels, indices of ``classes``, to train on and to test on; the tests are fewer.
        classes: Names of the classes; those of the bundle are sorted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = [len(labels) for _, labels in halves]
    assert counts[1] < counts[0]
    np.savez(
        path, x=np.concatenate([x for x, _ in halves]), labels=np.array(classes)[np.concatenate([y for _, y in halves])],
        groups=np.repeat([TRAIN, TEST], counts),
    )  # fmt: skip
    return f'split = "groups"\ntest_fraction = {min(0.49, max(0.01, counts[1] / sum(counts))):.4f}\n'
