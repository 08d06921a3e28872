"""The cross-modal table: which setups there are, and how their runs are told beside the paper's (MUIR, tables 3, 6 and 7)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.alignment.crossmodal import learned, made, step_of
from bench.alignment.domains import DOMAINS
from bench.runs import Job

__all__ = ["SETUPS", "Setup", "jobs_of", "rows_of", "step_over_plain"]

Setup = tuple[str, str, tuple[str, ...], int]
"""Name, way of sharing, domains, and size of contexts."""
SETUPS: Sequence[Setup] = (
    *(("baseline", "plain", (name,), 4) for name in DOMAINS),
    *(("intratask", "muir", (name,), 4) for name in DOMAINS),
    ("pictures + dna", "muir", ("pictures", "dna"), 4),
    ("pictures + text", "muir", ("pictures", "text"), 4),
    ("text + dna", "muir", ("text", "dna"), 4),
    ("all three", "muir", ("pictures", "text", "dna"), 4),
    ("all three, classical sharing", "classical", ("pictures", "text", "dna"), 4),
    ("all three, parallel adapters", "adapters", ("pictures", "text", "dna"), 4),
    *((f"pictures + dna, c = {context}", "muir", ("pictures", "dna"), context) for context in (0, 1, 2)),
)
PAPER: Mapping[str, Mapping[str, float]] = {
    "baseline": {"pictures": 21.08, "text": 134.41, "dna": 0.1540},
    "intratask": {"pictures": 20.67, "text": 132.06, "dna": 0.1466},
    "pictures + dna": {"pictures": 19.59, "dna": 0.1469},
    "pictures + text": {"pictures": 21.02, "text": 129.73},
    "text + dna": {"text": 132.62, "dna": 0.1469},
    "all three": {"pictures": 20.23, "text": 130.77, "dna": 0.1464},
    "all three, classical sharing": {"pictures": 21.09, "text": 145.88, "dna": 0.1519},
    "all three, parallel adapters": {"pictures": 21.05, "text": 132.02, "dna": 0.1600},
}
"""Error on CIFAR-10, perplexity on WikiText-2, mean squared error of CRISPR affinities."""


def jobs_of(
    setups: Sequence[Setup], seeds: Sequence[int], *, steps: int, generation: int, final: int, data: Path, few: bool, device: str
) -> dict[str, Job]:  # fmt: skip
    """Return all runs by name, the first seed first."""
    return {
        f"{name(setup)}-{steps}-{seed}": (
            learned,
            (setup[1], setup[2], seed, steps, generation, final, setup[3], str(data), few, device),
        )
        for seed in seeds
        for setup in setups
    }


def name(setup: Setup) -> str:
    """Return a name for files."""
    return f"{setup[1]}-{'-'.join(setup[2])}-{setup[3]}"


def rows_of(
    setups: Sequence[Setup], found: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], steps: int, figures: dict[str, Any]
) -> Iterator[tuple[str, ...]]:  # fmt: skip
    """Make the rows of the table, and add their figures: metric of each domain, and change from the baseline in percent, ours and the paper's."""
    baseline: dict[str, float] = {}
    figures["devices"] = sorted(
        {found[f"{name(setup)}-{steps}-{seed}"]["device"] for setup in setups for seed in seeds}
    )
    for setup in setups:
        title, _, domains, _ = setup
        runs = [found[f"{name(setup)}-{steps}-{seed}"] for seed in seeds]
        cells = dict.fromkeys(DOMAINS, "")
        for each in domains:
            values = np.array([run["metrics"][each] for run in runs])
            figures.setdefault(title, {})[each] = values.tolist()
            if title == "baseline":
                baseline[each] = float(values.mean())
            cells[each] = f"{values.mean():.2f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.2f}"
            if title != "baseline" and each in baseline:
                cells[each] += f" ({100 * (values.mean() / baseline[each] - 1):+.1f} %)"
            if title in PAPER and title != "baseline":
                cells[each] += f", paper {100 * (PAPER[title][each] / PAPER['baseline'][each] - 1):+.1f} %"
        modules = sum(runs[0]["shared"].values())
        yield (
            title,
            *cells.values(),
            f"{modules:,}" if modules else "",
            f"{np.mean([run['seconds'] for run in runs]) / 60:.0f}",
        )


def step_over_plain(data: Path, *, rounds: int, few: bool) -> dict[str, float]:
    """Time a step of pictures and text with and without blocks, in turn; half of the locations are challenged.

    Returns:
        ``step_over_plain``: median over rounds of the ratio; ``plain_ms`` and ``blocks_ms``: medians.
    """
    torch.set_num_threads(1)
    took: dict[str, list[float]] = {"plain": [], "muir": []}
    ways = {}
    for way in took:
        networks, domains = made(way, ("pictures", "text"), 0, 4, str(data), few)
        ways[way] = networks, domains, torch.optim.Adam(networks.groups(), fused=True)
    networks, _, optimizer = ways["muir"]
    assert networks.aligned is not None
    networks.search.challenge(networks.aligned.hypermodules, optimizer)
    for step in range(rounds):
        for way, (networks, domains, optimizer) in ways.items():
            # both keep the same language model's state, which has nothing to do with the time
            run = step_of(networks, domains, optimizer, step)
            began = time.perf_counter()
            run()
            took[way].append(time.perf_counter() - began)
    ratios = np.array(took["muir"][2:]) / np.array(took["plain"][2:])
    return {
        "step_over_plain": float(np.median(ratios)), "plain_ms": 1e3 * float(np.median(took["plain"])), "blocks_ms": 1e3 * float(np.median(took["muir"])),
    }  # fmt: skip
