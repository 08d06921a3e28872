"""The synthetic tasks of Gumbel-Matrix: which of them should share components is known.

    y = w·x + Σ_i sin(i w·x + (i - 1)²) + noise,  i = 1 … 6,  x ~ N(0, 1) in 128 dimensions,  noise ~ N(0, 0.01)
    w_1 = u_1,  w_2 = ρ u_1 + √(1 - ρ²) u_2         u_1, u_2 orthonormal; ρ says how related two tasks are

Source: section II, appendix A (figures 1 and 7). The paper gives no rate for figure 1 and none for the allocations of figure 7: 0.01 is
used for all, that of figure 7's weights.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isoform.runtime.kinds.allocation.spec import LayerSizes, ModularSpec
from isoform.train.kinds.allocation.network import ModularNetwork
from isoform.train.kinds.allocation.router import temperature
from isoform.train.kinds.allocation.run import fixed_masks

__all__ = ["pairs", "transfer"]

SIZE, TERMS, NOISE = 128, 6, 0.01
BATCH, RATE, CLIP = 64, 0.01, 1.0
LAST = 100
"""Steps at the end of training whose mean loss is reported, as the paper's plots are smoothed."""


def pairs(seed: int, steps: int, routing: str) -> dict[str, Any]:
    """Train on two pairs of tasks, equal inside a pair and unrelated across (appendix A3).

    Args:
        seed: Seed of the tasks, the weights and the samples.
        steps: Batches per task.
        routing: As ``AllocationTable.routing``.
    """
    spec = ModularSpec(input_shape=(1, 1, SIZE), layers=(LayerSizes(components=("dense16-dense16-linear1",) * 4),))
    directions = _orthonormal(seed, 2)
    network, losses = _trained(spec, directions[[0, 0, 1, 1]], seed, steps, routing, heads=False)
    fixed = fixed_masks(spec, 4, routing)
    masks = [network.router.likely(task) if fixed is None else fixed[task] for task in range(4)]
    first, second, third, fourth = ("".join(map(str, mask.int().flatten().tolist())) for mask in masks)
    return {"loss": losses, "masks": [first, second, third, fourth], "right": first == second != third == fourth}


def transfer(seed: int, steps: int, routing: str, relation: float) -> dict[str, Any]:
    """Train two tasks of a relatedness ρ with a fixed routing (section II, appendix A2)."""
    components = (
        "dense4",
        "dense4",
        "dense4-dense4",
        "dense4-dense4",
    )  # without sharing, each task has one of both kinds
    spec = ModularSpec(input_shape=(1, 1, SIZE), layers=(LayerSizes(components=components),))
    first, other = _orthonormal(seed, 2)
    second = relation * first + np.sqrt(1 - relation**2) * other
    _, losses = _trained(spec, np.stack([first, second]), seed, steps, routing, heads=True)
    return {"loss": losses}


def _orthonormal(seed: int, count: int) -> np.ndarray:
    """Return orthonormal vectors, shape (count, 128)."""
    rows, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, count)))
    return rows.T


def _labels(x: Tensor, weights: Tensor) -> Tensor:
    z = x @ weights
    waves = sum(torch.sin(i * z + (i - 1) ** 2) for i in range(1, TERMS + 1))
    return z + waves + NOISE * torch.randn(len(x))


def _trained(
    spec: ModularSpec, directions: np.ndarray, seed: int, steps: int, routing: str, *, heads: bool
) -> tuple[ModularNetwork, list[float]]:
    """Train, one update per task and step in random order; returns the network and the loss of each of the last ``LAST`` steps."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tasks, weights = len(directions), torch.from_numpy(directions.astype(np.float32))
    network = ModularNetwork(spec, [1] * tasks, initial=0.5, generator=torch.Generator().manual_seed(seed))
    fixed, losses = fixed_masks(spec, tasks, routing), []
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    updates = itertools.count()
    for _ in range(steps):
        losses.append(0.0)
        for task in torch.randperm(tasks).tolist():
            x = torch.randn(BATCH, SIZE)
            now = temperature(next(updates), start=50.0, end=0.5)
            mask = network.router.sample(task, temperature=now) if fixed is None else fixed[task]
            found = network.embeddings(x.reshape(BATCH, 1, 1, SIZE), mask)
            found = network.logits(found, task) if heads else found
            loss = (found[:, 0] - _labels(x, weights[task])).square().mean()
            # kept, as zeros: a task's logits move in the updates of the others by Adam's momentum, as in the authors' code
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
            losses[-1] += loss.item() / tasks
        del losses[: max(0, len(losses) - LAST)]
    return network, [round(loss, 5) for loss in losses]
