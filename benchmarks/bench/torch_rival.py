"""The rival that has everything: torch on the same machine, fitting the same signature, or all of the network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from isoform.runtime.bundle import Bundle
from isoform.runtime.learn.fit import RATES
from isoform.runtime.learn.samples import balanced_batches, moved
from isoform.runtime.signature import Signature
from isoform.runtime.spec import Array
from isoform.train.bundling import network_from_bundle
from isoform.train.network import IsometricNetwork

__all__ = ["fine_tuned", "signature_step"]

PARAMETERS = {
    "mixture": "mixture", "bn_affine": "bn.affine", "heads.0": "logits.weight", "heads.1": "logits.bias",
}  # fmt: skip


def signature_step(bundle: Bundle, signature: Signature, x: Array, labels: Array) -> Callable[[], None]:
    """One step of fitting mixture, BN affine and logits layer in torch eager, with fixed BN statistics, on one thread.

    Torch is given its fastest form here: channels last, 1×1 convolutions as matrix products, no gradient for what stays.
    """
    torch.set_num_threads(1)
    network = network_from_bundle(bundle, {"task": signature})
    groups = []
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in PARAMETERS)
        if name in PARAMETERS:
            groups.append({"params": [parameter], "lr": RATES[PARAMETERS[name]]})
    optimizer = torch.optim.Adam(groups)
    samples, classes = torch.from_numpy(x), torch.from_numpy(labels)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(samples, 0), classes).backward()
        optimizer.step()

    return step


def fine_tuned(
    bundle: Bundle, signature: Signature, x: Array, labels: Array, *, seed: int, steps: int = 60
) -> IsometricNetwork:
    """All parameters, templates included, fitted in torch: what a model per user could reach, at a model's size per user."""
    torch.set_num_threads(1)
    network = network_from_bundle(bundle, {"task": signature})
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    rng = np.random.default_rng(seed)
    batches = balanced_batches(labels, 16, rng)
    for _ in range(steps):
        rows = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(network(torch.from_numpy(moved(x[rows], rng)), 0), torch.from_numpy(labels[rows])).backward()
        optimizer.step()
    return network
