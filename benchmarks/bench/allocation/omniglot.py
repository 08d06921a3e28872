"""Omniglot by Gumbel-Matrix, shared bottoms and single tasks (section V-B, table II), and a new alphabet on old components."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.allocation.alphabets import NEW, TWENTY, alphabets
from bench.allocation.recipes import recipe_of, trained_on
from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime, Signature
from isoform.runtime.learn.head import discriminant
from isoform.train.data.samples import Dataset
from isoform.train.kinds.allocation.recipe import AllocationRecipe

__all__ = ["ROWS", "SINGLE", "new_alphabet", "prepared", "single", "trained"]

SINGLE = "single task"
ROWS: Mapping[str, dict[str, Any]] = {
    "shared bottom, added": {"allocation.routing": "shared", "network.combine": "sum"},
    "shared bottom, averaged": {"allocation.routing": "shared"},
    "Gumbel-Matrix": {},
}
"""Method → fields of the recipe that differ."""


def trained(
    method: str, seed: int, steps: int, pixels: int, channels: int, count: int, data: str, bundle: str
) -> dict[str, Any]:  # fmt: skip
    """Train one network on the first alphabets.

    Args:
        method: One of ``ROWS``.
        seed: The recipe's seed.
        steps: Batches per task.
        pixels: Side of the images.
        channels: Feature maps of every convolution; the paper has 48.
        count: How many of the twenty alphabets.
        data: Folder of the data sets.
        bundle: Where to write the bundle; empty for nowhere.
    """
    datasets = alphabets(Path(data), TWENTY[:count], pixels)
    made = trained_on(_recipe(datasets, seed, steps, pixels, channels, ROWS[method]), datasets)
    if bundle:
        made.write(bundle)
    scores, masks = made.training["test_accuracy"], made.training["allocation"]
    return {
        "error": 100 * (1 - float(np.mean(list(scores.values())))), "validation_error": 100 * (1 - made.training["validation_accuracy"]),
        "active_share": made.training["active_share"], "codes": len({"".join(mask) for mask in masks.values()}), "tasks": scores,
    }  # fmt: skip


def single(number: int, seed: int, steps: int, pixels: int, channels: int, data: str) -> dict[str, Any]:
    """Train a network on one alphabet alone, with all components."""
    datasets = alphabets(Path(data), TWENTY, pixels)
    name = [*datasets][number]
    alone = {name: datasets[name]}
    made = trained_on(_recipe(alone, seed, steps, pixels, channels, ROWS["shared bottom, averaged"]), alone)
    return {
        "error": 100 * (1 - made.training["test_accuracy"][name]),
        "validation_error": 100 * (1 - made.training["validation_accuracy"]),
    }


def _recipe(
    datasets: Mapping[str, Dataset], seed: int, steps: int, pixels: int, channels: int, changes: Mapping[str, Any]
) -> AllocationRecipe:  # fmt: skip
    fixed = {
        "steps": steps, "seed": seed, "data.input_shape": [1, pixels, pixels], "network.channels": channels,
        "optimizer.evaluations": min(32, steps),
    }  # fmt: skip
    return recipe_of("omniglot", list(datasets), {**fixed, **changes})


def prepared(bundle: str, pixels: int, count: int, data: str) -> dict[str, float]:
    """Compile a bundle of ``trained``; returns the mean ratio of latencies, and the largest difference from torch."""
    report = compile_bundle(Path(bundle), datasets=alphabets(Path(data), TWENTY[:count], pixels))["tasks"]
    gaps = [
        value for entry in report.values() for name, value in entry["verified"].items() if name.startswith("torch_")
    ]
    return {
        "pruned_over_full_latency": float(np.mean([entry["pruned_over_full_latency"] for entry in report.values()])),
        "compiled_max_abs_diff": max(gaps),
    }


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
