"""New data sets on the templates of the nine tasks of ``sharing.py`` (Compositional Models, table 2): where their mixture weights start.

Fashion-MNIST and USPS were not seen by the templates. Each learns from 2,000 images, by the recipe table ``[start]``: the templates stay as they
are, BN's statistics are the new task's own, unless only the logits layer is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.compositional.digits import enlarged
from bench.recipes import trained_on
from isoform.train.data.formats.idx import read_idx_folder
from isoform.train.data.formats.usps import read_usps_folder
from isoform.train.data.samples import Dataset, Split
from isoform.train.recipe import Recipe

__all__ = ["STARTS", "TARGETS", "TRAINED", "transferred"]

STARTS, TARGETS = ("mnist-plain", "kmnist-plain", "letters-plain"), ("fashion-mnist", "usps")
TRAINED: Mapping[str, dict[str, Any]] = {
    "Ξ, BN, logits": {"trains": ["mixture", "bn", "head"]},
    "BN, logits": {"trains": ["bn", "head"]},
    "logits": {"trains": ["head"]},
    "random Ξ; Ξ, BN, logits": {"trains": ["mixture", "bn", "head"], "random": True},
}
"""Row → fields of the recipe table ``start``."""
IMAGES = 2000
"""Training images of a new data set."""


def transferred(
    target: str, start: str, row: str, seed: int, steps: int, base: str, data: str, few: int
) -> dict[str, Any]:
    """Train one new task on a bundle's templates.

    Args:
        target: One of ``TARGETS``.
        start: Task of the bundle whose signature it starts from.
        row: One of ``TRAINED``.
        seed: The recipe's seed.
        steps: Batches of 32.
        base: The bundle.
        data: Folder of the data sets.
        few: Test images; 0 for all.
    """
    dataset = _read(target, Path(data), seed=seed, few=few)
    recipe = Recipe.from_json({
        "steps": steps, "batch": 32, "seed": seed, "threads": 1, "data": {"input_shape": [1, 28, 28], "shift": 2},
        "mixture": {"entropy": 0.0} if "mixture" in TRAINED[row]["trains"] else {}, "optimizer": {"lr": 0.003, "weight_decay": 0.0},
        "start": {"bundle": base, "signature": start, **TRAINED[row]}, "tasks": {target: {"data": "folder"}},
    })  # fmt: skip
    made = trained_on(recipe, {target: dataset})
    (signature,) = made.signatures.values()
    sizes = {name: part.size for name, part in signature.parts.items()}
    trained = {
        "mixture": sizes["mixture"],
        "bn": sizes.get("bn.affine", 0),
        "head": sizes["logits.weight"] + sizes["logits.bias"],
    }
    return {
        "accuracy": 100 * made.training["test_accuracy"][target], "numbers": sum(trained[part] for part in TRAINED[row]["trains"]),
    }  # fmt: skip


def _read(target: str, data: Path, *, seed: int, few: int) -> Dataset:
    found = read_idx_folder(data / target) if target != "usps" else read_usps_folder(data / "usps")
    assert found.test is not None
    rows = np.random.default_rng(seed).permutation(len(found.train.labels))[:IMAGES]
    halves = [
        (found.train.images[rows], found.train.labels[rows]),
        (found.test.images[: few or None], found.test.labels[: few or None]),
    ]
    splits = [
        Split(images=images if images.shape[-1] == 28 else enlarged(images), labels=labels) for images, labels in halves
    ]
    return Dataset(train=splits[0], test=splits[1], classes=found.classes)
