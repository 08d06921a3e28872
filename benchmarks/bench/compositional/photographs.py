"""Photographs of CIFAR-100's subset (Compositional Models, Appendix C): one training run of each shape of signature and of each depth.

4 templates of 24 channels; the untied rival has as many templates as layers. A shape is compared after the same number of epochs, by the torch
network as it was trained (mixed), and with every layer set to its template with the largest ξ (folded), however soft it was; `isoform compile` would
leave those mixed whose largest ξ is below 0.95.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.adapting.shifted import photographs
from bench.recipes import recipe_of, trained_on
from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.train.data.samples import Split
from isoform.train.kinds.mixture.bundling import network_from_bundle

__all__ = ["DEPTHS", "SHAPES", "trained"]

SHAPES: Mapping[str, dict[str, Any]] = {
    "learned": {"mixture.entropy": 0.0},
    "learned, entropy": {},
    "learned, entropy and attraction": {"mixture.attraction": 0.1},
    "free": {"mixture.signature": "free"},
    "sequential": {"mixture.signature": "sequential"},
    "cyclic": {"mixture.signature": "cyclic"},
    "random": {"mixture.signature": "random"},
    "untied": {"mixture.signature": "sequential", "network.templates": 8},
}
"""Row → fields of the recipe."""
DEPTHS: Mapping[str, dict[str, Any]] = {
    "4 templates, 4 layers": {"mixture.signature": "sequential", "network.layers": 4},
    "4 templates, 8 layers": {"mixture.signature": "sequential", "network.layers": 8},
    "4 templates, 16 layers": {"mixture.signature": "progressive", "network.layers": 16},
}
"""Row → fields: more layers of the same parameters. With 4 layers every layer has weights of its own."""


def trained(changes: Mapping[str, Any], seed: int, epochs: float, data: str, few: int) -> dict[str, Any]:
    """Train one network, and test it mixed and folded.

    Args:
        changes: Fields of the recipe ``photographs``.
        seed: Its seed.
        epochs: Passes over the training images.
        data: Folder of the data sets.
        few: Images per half; 0 for all 20,000 and 5,000.
    """
    dataset = photographs(Path(data), few=few)
    made = trained_on(
        recipe_of("photographs", ["photographs"], {"epochs": epochs, "seed": seed, **changes}), {"photographs": dataset}
    )
    folded = _folded(made)
    assert dataset.test is not None
    return {
        "mixed": 100 * made.training["test_accuracy"]["photographs"], "folded": 100 * _accuracy(folded, dataset.test),
        "mean_max_xi": made.training["mean_max_xi"], "cosine": made.training.get("template_cosine", 0.0),
        "parameters": sum(array.size for array in made.tensors.values()), "history": _losses(made),
    }  # fmt: skip


def _folded(bundle: Bundle) -> torch.nn.Module:
    """Return the network with every layer set to its largest template."""
    network = network_from_bundle(bundle, bundle.signatures)
    with torch.no_grad():
        network.mixture.copy_(network.xi())  # free ones too, of which δ is what was learned
    network.discrete, network.delta = True, None
    return network


@torch.no_grad()
def _accuracy(network: torch.nn.Module, half: Split) -> float:
    images: Array = np.asarray(half.images)
    answers = [network(torch.from_numpy(images[rows : rows + 500]), 0).argmax(1) for rows in range(0, len(images), 500)]
    return float((torch.cat(answers).numpy() == half.labels).mean())


def _losses(bundle: Bundle) -> list[float]:
    """Return the training loss at ten times, evenly spaced."""
    history = bundle.training["history"]
    return [history[len(history) * (place + 1) // 10 - 1]["loss"] for place in range(min(10, len(history)))]
