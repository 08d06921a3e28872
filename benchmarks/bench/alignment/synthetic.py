"""MUIR's synthetic tasks (section 4.1, table 2): thirty linear regressions in three groups, 15 samples each to learn from.

Tasks of a group differ by a positive factor alone, y = s_t u_g · x with u_g ~ N(0, I), s_t = |N(0, 1)|, x ~ U(-1, 1)^20; the noisy targets
have N(0, 0.1) added. Of the 15 samples 10 are to train on and 5, the same of every task, to choose the best state by; 50 are to test on.
Written from a description of the data of Kang, Grauman and Sha (2011), which the paper uses; its own thirty tasks, which are published with
the authors' code, are read from a folder of arrays, the same for every seed: ``train_X.npy`` (30, 15, 20), ``train_Y.npy`` (30, 15),
``test_X.npy`` (30, 50, 20), ``test_Y.npy`` (30, 50), and ``noisy_train_Y.npy``, ``noisy_test_Y.npy``.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isoform.train.kinds.alignment.hypermodules import Hypermodules
from isoform.train.kinds.alignment.search import Search

__all__ = ["ROWS", "Drawn", "drawn", "learned", "published"]

GROUPS, PER_GROUP, INPUTS = 3, 10, 20
TASKS = GROUPS * PER_GROUP
TRAIN, VALIDATION, TEST = 10, 5, 50
VARIANCE = 0.1
STEPS = 100
"""Steps per generation."""
RATE, SCORE_RATE = 1e-3, 1e-2
ROWS: Mapping[str, dict[str, Any]] = {
    "single task": {"search": None},
    "random": {"search": Search(challengers=4, choice="random")},
    "oracle": {"search": None, "oracle": True},
    "MUIR": {"search": Search(challengers=4)},
}
"""Row of the table → what differs."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Samples of all tasks: inputs (T, n, 20) and targets (T, n) to train on, to validate and to test."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def drawn(seed: int, *, noisy: bool) -> Drawn:
    """Draw the tasks; the same weights and inputs with and without noise."""
    rng = np.random.default_rng((5, seed))
    directions, scales = rng.normal(size=(GROUPS, INPUTS)), np.abs(rng.normal(size=TASKS))
    weights = np.repeat(directions, PER_GROUP, axis=0) * scales[:, None]
    x = rng.uniform(-1, 1, (TASKS, TRAIN + VALIDATION + TEST, INPUTS))
    noise = rng.normal(size=x.shape[:2]) * np.sqrt(VARIANCE)
    y = np.einsum("tni,ti->tn", x, weights) + (noise if noisy else 0)
    parts = np.split(np.arange(x.shape[1]), [TRAIN, TRAIN + VALIDATION])
    train, validation, test = ((_tensor(x[:, part]), _tensor(y[:, part])) for part in parts)
    return Drawn(train, validation, test)


def published(folder: Path, *, noisy: bool) -> Drawn:
    """Read the authors' tasks."""
    before = "noisy_" if noisy else ""
    x, y, test_x, test_y = (
        np.load(folder / f"{name}.npy") for name in ("train_X", f"{before}train_Y", "test_X", f"{before}test_Y")
    )
    order = np.random.default_rng(301).permutation(TRAIN + VALIDATION)
    halves = ((_tensor(x[:, rows]), _tensor(y[:, rows])) for rows in (order[:TRAIN], order[TRAIN:]))
    return Drawn(*halves, (_tensor(test_x), _tensor(test_y)))


def learned(row: str, seed: int, noisy: bool, generations: int, final: int, tasks: str = "") -> dict[str, Any]:
    """Run one row of the table.

    Args:
        row: One of ``ROWS``.
        seed: Of the data and the run.
        noisy: Whether targets have noise.
        generations: Generations of 100 steps with the search.
        final: Generations after that with the best alignment as it is, from the best state.
        tasks: Folder of the authors' tasks; empty to draw some.

    Returns:
        ``rmse``: mean over tasks of the test RMSE, in the state with the best validation loss; ``groups``: whether hypermodules and groups
        are the same at the end; ``found``: the first generation in which they were, or None; ``alignments``: ψ of every generation.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data, began = published(Path(tasks), noisy=noisy) if tasks else drawn(seed, noisy=noisy), time.process_time()
    settings = ROWS[row]
    search: Search | None = settings["search"]
    modules = Hypermodules(
        torch.full((TASKS,), (2 / INPUTS) ** 0.5), context=1, block=INPUTS, challenged=search.challenged(TASKS) if search else 0,
        challengers=search.challengers if search else 1, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    if settings.get("oracle"):
        modules.alignment.copy_(torch.arange(TASKS) // PER_GROUP)
    optimizer = torch.optim.Adam(
        [{"params": [modules.tensors, modules.contexts], "lr": RATE}, {"params": [modules.scores], "lr": SCORE_RATE}], fused=True
    )  # fmt: skip
    best, found, alignments = (float("inf"), _state(modules)), None, []
    for generation in range(generations + final):
        searching = search is not None and generation < generations
        if generation == generations:
            modules.load_state_dict(best[1])
            modules.changed()
            optimizer.state.clear()
        if searching:
            assert search is not None
            search.challenge(modules, optimizer)
        for _ in range(STEPS):
            optimizer.zero_grad()
            _squares(modules, data.train).mean(1).sum().backward()
            optimizer.step()
        if searching:
            assert search is not None
            search.settle(modules)
            alignments.append(modules.alignment.tolist())
            if found is None and _grouped(modules.alignment):
                found = generation + 1
        with torch.no_grad():
            loss = _squares(modules, data.validation).mean().item()
        if loss < best[0]:
            best = loss, _state(modules)
    modules.load_state_dict(best[1])
    modules.changed()
    with torch.no_grad():
        rmse = _squares(modules, data.test).mean(1).sqrt().mean().item()
    return {
        "rmse": rmse, "groups": _grouped(modules.alignment), "found": found, "seconds": time.process_time() - began,
        "alignments": alignments,
    }  # fmt: skip


def _squares(modules: Hypermodules, samples: tuple[Tensor, Tensor]) -> Tensor:
    x, y = samples
    return (torch.bmm(x, modules.blocks()[:, :, None])[:, :, 0] - y).square()


def _state(modules: Hypermodules) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in modules.state_dict().items()}


def _grouped(alignment: Tensor) -> bool:
    """Return whether each group has one hypermodule that no other group uses."""
    rows = alignment.reshape(GROUPS, PER_GROUP)
    return bool((rows == rows[:, :1]).all()) and len(rows[:, 0].unique()) == GROUPS


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))
