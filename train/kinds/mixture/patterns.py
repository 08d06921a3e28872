"""Hand-designed discrete signatures: which template each layer uses, decided before training, or what it starts from.

With L layers and K templates, template indices from 0 (Compositional Models, section 4.1, compares the first three):

    sequential    every template for L/K layers in a row:                   0 0 1 1 2 2 3 3
    cyclic        all templates in turn, again and again:                   0 1 2 3 0 1 2 3
    random        independent uniform draws from a seed
    progressive   contiguous repeats that grow towards the end, 1 : 2 : 3 …:  0 1 2 2 2 3 3 3   (the paper's example is 1 2 2 3 3 3 3 4 4 4 4)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from isoform.runtime.kinds.mixture.discrete import discrete_logits
from isoform.train.kinds.mixture.network import IsometricNetwork
from isoform.train.kinds.mixture.recipe import MixtureTable

__all__ = ["PATTERNS", "cyclic", "progressive", "random", "sequential", "start_signatures"]

LEAD = 2.0
"""Logit that a learned ξ starts with for a pattern's template: 0.7 of a layer's weights with K = 4."""


def sequential(layers: int, templates: int, *, seed: int = 0) -> tuple[int, ...]:
    """Layer ℓ uses template ⌊ℓ K / L⌋; ``seed`` is not used."""
    return tuple(layer * templates // layers for layer in range(layers))


def cyclic(layers: int, templates: int, *, seed: int = 0) -> tuple[int, ...]:
    """Layer ℓ uses template ℓ mod K; ``seed`` is not used."""
    return tuple(layer % templates for layer in range(layers))


def random(layers: int, templates: int, *, seed: int = 0) -> tuple[int, ...]:
    """Draw uniformly; the same seed gives the same layers."""
    return tuple(int(k) for k in np.random.default_rng(seed).integers(0, templates, layers))


def progressive(layers: int, templates: int, *, seed: int = 0) -> tuple[int, ...]:
    """Template k ends at layer L · (k+1)(k+2) / K(K+1), rounded, so that its run is about k+1 times the first; ``seed`` is not used."""
    ends = [round(layers * (k + 1) * (k + 2) / (templates * (templates + 1))) for k in range(templates)]
    # Runs of 1 : 2 : … : K sum to K(K + 1) / 2, so template k ends after (k + 1)(k + 2) / 2 of these shares.
    return tuple(next(k for k, end in enumerate(ends) if layer < end) for layer in range(layers))


PATTERNS: dict[str, Callable[..., tuple[int, ...]]] = {f.__name__: f for f in (sequential, cyclic, random, progressive)}
"""Name in a recipe → function of (layers, templates, *, seed) → template index per layer."""


def start_signatures(network: IsometricNetwork, table: MixtureTable, *, seed: int) -> None:
    """Give all tasks of a new network the signatures that training begins with; those that are fixed are not trained."""
    chosen = table.signature if table.signature in PATTERNS else table.initial
    if table.signature == "free" and chosen == "random":
        chosen = "sequential"
    network.discrete = table.signature == "discrete"
    if table.signature in ("learned", "discrete") and chosen == "random":
        return  # the network's own start: logits near 0
    pattern = PATTERNS[chosen](network.spec.layers, network.spec.templates, seed=seed)
    logits = torch.from_numpy(discrete_logits(pattern, network.spec.templates))
    if table.signature in ("learned", "discrete"):
        network.mixture.data += LEAD * (logits == 0)
        return
    network.mixture.data[:] = logits
    network.mixture.requires_grad_(False)  # ``Run.groups`` leaves it out then
    if table.signature == "free":
        network.delta = torch.nn.Parameter(torch.zeros_like(network.mixture))
