"""The 4-MNISTs of Gumbel-Matrix (section V-A, table I): two copies of MNIST and two of MNIST turned by 90°, on one small network.

The recipe is that of ``isoform train mnist4``. Beside the paper's rows stands a shared bottom whose components are averaged as the
Gumbel-Matrix's are, instead of added: what it gains is normalisation, and only the rest is routing.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime
from isoform.train.data.load import load_task
from isoform.train.data.samples import Dataset, Split
from isoform.train.kinds.allocation.recipe import AllocationRecipe
from isoform.train.loop import train
from isoform.train.recipe import read_recipe

__all__ = ["ROWS", "compiled", "trained"]

ROWS: Mapping[str, dict[str, str]] = {
    "no sharing": {"allocation.routing": "separate"},
    "shared bottom, added": {"allocation.routing": "shared", "network.combine": "sum"},
    "shared bottom, averaged": {"allocation.routing": "shared"},
    "Gumbel-Matrix": {},
    "Gumbel-Matrix, budget 0.75": {"allocation.budget": "0.75"},
}
"""Method → fields of the recipe that differ."""


def trained(method: str, seed: int, steps: int, data: str, tests: int, bundle: str = "") -> dict[str, Any]:
    """Train one network, and test it on all test samples.

    Args:
        method: One of ``ROWS``.
        seed: The recipe's seed.
        steps: Batches of 16 per task.
        data: Folder of the data sets.
        tests: Number of test samples per task; 0 for all.
        bundle: Where to write the bundle; empty for nowhere.
    """
    recipe, datasets = _prepared(method, seed, steps, data, tests)
    with tempfile.TemporaryDirectory(prefix="isoform-mnist4-") as folder:
        made = train(recipe, datasets, checkpoint=Path(folder) / "checkpoint", checkpoint_seconds=1e9)
    if bundle:
        made.write(bundle)
    scores, masks = made.training["test_accuracy"], list(made.training["allocation"].values())
    return {
        "accuracy": 100 * float(np.mean(list(scores.values()))), "active_share": made.training["active_share"],
        "masks": ["".join(mask) for mask in masks], "pairs": masks[0] == masks[1] != masks[2] == masks[3],
    }  # fmt: skip


def compiled(bundle: str, steps: int, data: str, tests: int, method: str, seed: int) -> dict[str, float]:
    """Compile a bundle of ``trained`` and measure it: parity with torch, pruned over unpruned latency, and a swap between its tasks."""
    _, datasets = _prepared(method, seed, steps, data, tests)
    report = compile_bundle(Path(bundle), datasets=datasets)["tasks"]
    gaps = [
        value for entry in report.values() for name, value in entry["verified"].items() if name.startswith("torch_")
    ]
    return {
        "pruned_over_full_latency": float(np.mean([entry["pruned_over_full_latency"] for entry in report.values()])),
        "compiled_max_abs_diff": max(gaps),
        "compiled_diff_over_largest_logit": max(gaps) / max(entry["verified"]["largest_logit"] for entry in report.values()),
        "pruned_ms": float(np.mean([entry["verified"]["latency_fast_ms"] for entry in report.values()])),
        "swap_us": _swap_us(Path(bundle), datasets),
    }  # fmt: skip


def _prepared(method: str, seed: int, steps: int, data: str, tests: int) -> tuple[AllocationRecipe, dict[str, Dataset]]:
    recipe = read_recipe("mnist4", {"steps": str(steps), "seed": str(seed), **ROWS[method]})
    assert isinstance(recipe, AllocationRecipe)
    loaded: dict[str, Dataset] = {}
    for task in recipe.tasks.values():  # both copies of a domain are the same arrays
        if task.domain not in loaded:
            whole = load_task(task, recipe.data, root=Path(data))
            assert whole.test is not None
            few = Split(images=whole.test.images[: tests or None], labels=whole.test.labels[: tests or None])
            loaded[task.domain] = dataclasses.replace(whole, test=few)
    return recipe, {name: loaded[task.domain] for name, task in recipe.tasks.items()}


def _swap_us(bundle: Path, datasets: Mapping[str, Dataset]) -> float:
    """Measure what another task each time costs: the median time of a prediction of the tasks in turn less that of one task, in µs."""
    with Runtime.open(bundle, engine="onnx") as runtime:
        signatures = [runtime.signature(task) for task in runtime.tasks]
        x = next(iter(datasets.values())).test.images[:1]  # type: ignore[union-attr]
        took: dict[str, list[float]] = {"same": [], "other": []}
        for number in range(4000):
            for name, signature in (("same", signatures[0]), ("other", signatures[number % len(signatures)])):
                began = time.perf_counter()
                runtime.predict(x, signature)
                took[name].append(time.perf_counter() - began)
        return 1e6 * float(np.median(took["other"][400:]) - np.median(took["same"][400:]))
