"""Omniglot by Gumbel-Matrix, shared bottoms and single tasks (section V-B, table II), and a new alphabet on old components."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.allocation.alphabets import NEW, TWENTY, alphabets
from bench.recipes import recipe_of, trained_on
from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime, Signature
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.learn.head import discriminant
from isoform.train.data.samples import Dataset
from isoform.train.kinds.allocation.bundling import network_from_bundle
from isoform.train.kinds.allocation.recipe import AllocationRecipe

__all__ = ["ROWS", "SINGLE", "Sizes", "new_alphabet", "prepared", "single", "trained"]

SINGLE = "single task"
ROWS: Mapping[str, dict[str, Any]] = {
    "shared bottom, added": {"allocation.routing": "shared", "network.combine": "sum"},
    "shared bottom, averaged": {"allocation.routing": "shared"},
    "Gumbel-Matrix": {},
}
"""Method → fields of the recipe that differ."""
STRIDED, SMALLEST = (0, 1, 3, 4, 6), 4
"""Layers of the paper with stride 2, and the side of its last feature maps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is smaller here than in the paper, which has 8,000 steps, 105 pixels, 48 channels and a rate of 1e-4."""

    steps: int
    """Batches per task."""
    pixels: int
    """Side of the images."""
    channels: int
    """Feature maps of every convolution."""
    rate: float

    def __str__(self) -> str:
        """Return a part of the names of files."""
        return f"{self.pixels}-{self.channels}-{self.rate:g}-{self.steps}"


def trained(method: str, seed: int, sizes: Sizes, count: int, data: str, bundle: str, device: str) -> dict[str, Any]:
    """Train one network on the first alphabets.

    Args:
        method: One of ``ROWS``.
        seed: The recipe's seed.
        sizes: Of images, network and training.
        count: How many of the twenty alphabets.
        data: Folder of the data sets.
        bundle: Where to write the bundle; empty for nowhere.
        device: Where to train, as for ``train``.
    """
    datasets = alphabets(Path(data), TWENTY[:count], sizes.pixels)
    made = trained_on(_recipe(datasets, seed, sizes, ROWS[method]), datasets, device=device)
    if bundle:
        made.write(bundle)
    scores, masks = made.training["test_accuracy"], made.training["allocation"]
    return {
        "error": 100 * (1 - float(np.mean(list(scores.values())))), "validation_error": 100 * (1 - made.training["validation_accuracy"]),
        "device": made.training.get("device", "processor"), "active_share": made.training["active_share"],
        "codes": len({"".join(mask) for mask in masks.values()}), "tasks": scores,
    }  # fmt: skip


def single(number: int, seed: int, sizes: Sizes, data: str, device: str) -> dict[str, Any]:
    """Train a network on one alphabet alone, with all components."""
    datasets = alphabets(Path(data), TWENTY, sizes.pixels)
    name = [*datasets][number]
    alone = {name: datasets[name]}
    made = trained_on(_recipe(alone, seed, sizes, ROWS["shared bottom, averaged"]), alone, device=device)
    return {
        "device": made.training.get("device", "processor"),
        "error": 100 * (1 - made.training["test_accuracy"][name]),
        "validation_error": 100 * (1 - made.training["validation_accuracy"]),
    }


def _recipe(datasets: Mapping[str, Dataset], seed: int, sizes: Sizes, changes: Mapping[str, Any]) -> AllocationRecipe:
    fixed = {
        "steps": sizes.steps, "seed": seed, "data.input_shape": [1, sizes.pixels, sizes.pixels], "network.channels": sizes.channels,
        "layers": [{"stride": stride} for stride in strides(sizes.pixels)], "optimizer.lr": sizes.rate,
        "validation.evaluations": min(32, sizes.steps),
    }  # fmt: skip
    return recipe_of("omniglot", list(datasets), {**fixed, **changes})


def strides(pixels: int) -> list[int]:
    """Return the strides of the eight layers: the paper's, until 4 pixels or fewer are left, as there are at the end of the paper's network."""
    found = []
    for layer in range(8):
        found.append(2 if layer in STRIDED and pixels > SMALLEST else 1)
        pixels = -(-pixels // found[-1])
    return found


def prepared(bundle: str, pixels: int, count: int, data: str) -> dict[str, float]:
    """Compile a bundle of ``trained``; returns the mean ratio of latencies, and the largest differences from torch in float64: the compiled
    networks', and those of torch in float32, which has the same number of digits.
    """
    datasets = alphabets(Path(data), TWENTY[:count], pixels)
    report = compile_bundle(Path(bundle), datasets=datasets)["tasks"]
    gaps = [
        value for entry in report.values() for name, value in entry["verified"].items() if name.startswith("torch_")
    ]
    return {
        "pruned_over_full_latency": float(np.mean([entry["pruned_over_full_latency"] for entry in report.values()])),
        "compiled_max_abs_diff": max(gaps),
        "torch_float32_max_abs_diff": max(
            _rounding(Bundle.load(bundle), task, half.test) for task, half in datasets.items()
        ),
    }


@torch.no_grad()
def _rounding(bundle: Bundle, task: str, test: Any) -> float:
    """Return how far torch's network in float32 is from itself in float64."""
    network, (mask,) = network_from_bundle(bundle, {task: bundle.base(task)})
    x = torch.from_numpy(test.images)
    single = network(x, 0, mask).double()
    return float((single - network.double()(x.double(), 0, mask.double())).abs().max())


def new_alphabet(number: int, bundle: str, pixels: int, data: str, classes: int) -> dict[str, Any]:
    """Learn a new alphabet from 10 drawings per character on the device; test on the 10 others.

    Args:
        number: Which of ``NEW``.
        bundle: A compiled bundle.
        pixels: Side of its images.
        data: Folder of the data sets.
        classes: Number of characters; 0 for all.
    """
    (dataset,) = alphabets(Path(data), [NEW[number]], pixels).values()
    names = dataset.classes[: classes or None]
    assert dataset.test is not None
    assert dataset.validation is not None
    x, y = _of(dataset.train, len(names))
    tests = [_of(half, len(names)) for half in (dataset.validation, dataset.test)]
    test_x, test_y = (np.concatenate(some) for some in zip(*tests, strict=True))
    labels = [names[label] for label in y]
    with Runtime.open(bundle) as runtime:

        def percent(signature: Signature) -> float:
            return 100 * float((runtime.predict(test_x, signature).argmax(1) == test_y).mean())

        # a new logits layer on every task's mask, as it is computed and without a fit
        by_mask = [percent(_with_head(runtime, runtime.signature(task), x, y, names)) for task in runtime.tasks]
        head = runtime.fit(x, labels, classes=names, parts=["head"])
        both = runtime.fit(x, labels, classes=names, parts=["allocation", "head"])
        masks = [runtime.bundle.resolve(outcome.signature).parts["allocation"] for outcome in (head, both)]
        return {
            "alphabet": NEW[number], "classes": len(names), "mean_mask": float(np.mean(by_mask)), "best_mask": percent(head.signature),
            "searched": percent(both.signature), "changed": int((masks[0] != masks[1]).sum()), "seconds": both.seconds,
            "bytes": len(both.signature.encode()), "first_mask": by_mask[0], "largest_mask": max(by_mask),
        }  # fmt: skip


def _of(half: Any, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rows = half.labels < classes
    return half.images[rows], half.labels[rows]


def _with_head(runtime: Runtime, base: Signature, x: np.ndarray, y: np.ndarray, names: tuple[str, ...]) -> Signature:
    """Return a task's mask with a logits layer for these samples."""
    learner = runtime.learner
    weight, bias = discriminant(learner.embeddings(learner.point(base), x), y, len(names))
    head = {"logits.weight": weight.astype(np.float32), "logits.bias": bias.astype(np.float32)}
    return base.replace(parts={"allocation": base.parts["allocation"], **head}, labels=names)
