"""The rival that has everything: torch on the same machine, fitting the same signature, or all of the network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.learn.learner import MixtureLearner
from isoform.runtime.learn.fits.fit import HEAD_RATE
from isoform.runtime.learn.fits.trial import held_back
from isoform.runtime.learn.samples import balanced_batches, moved
from isoform.train.kinds.mixture.bundling import network_from_bundle
from isoform.train.kinds.mixture.network import IsometricNetwork

__all__ = ["fine_tuned", "signature_step"]

TUNING = (0, 10, 20, 30, 40, 50, 60, 80, 100)
"""Numbers of steps that fine-tuning chooses from."""
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
            groups.append({"params": [parameter], "lr": MixtureLearner.rates.get(PARAMETERS[name], HEAD_RATE)})
    optimizer = torch.optim.Adam(groups)
    samples, classes = torch.from_numpy(x), torch.from_numpy(labels)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(samples, 0), classes).backward()
        optimizer.step()

    return step


def fine_tuned(
    bundle: Bundle, start: Callable[[Array], Signature], x: Array, labels: Array, *, seed: int
) -> IsometricNetwork:
    """All parameters, templates included, fitted in torch: what a model per user could reach, at a model's size per user.

    For as many steps as are best for samples that are held back; for all of them where none can be. ``start``: rows to learn from →
    where to begin.
    """
    torch.set_num_threads(1)

    def tuned(rows: Array) -> Iterator[IsometricNetwork]:
        return _tuned(network_from_bundle(bundle, {"task": start(rows)}), x[rows], labels[rows], seed=seed)

    everything, losses = np.arange(len(labels)), np.zeros(len(TUNING))
    for fold in held_back(labels, seed=seed):
        found = [_loss(network, x[fold], labels[fold]) for network in tuned(np.setdiff1d(everything, fold))]
        losses += len(fold) * np.array(found)
    place = int(losses.argmin()) if losses.any() else -1
    return next(itertools.islice(tuned(everything), range(len(TUNING))[place], None))


def _tuned(network: IsometricNetwork, x: Array, labels: Array, *, seed: int) -> Iterator[IsometricNetwork]:
    """The network after every number of steps in ``TUNING``."""
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    rng = np.random.default_rng(seed)
    batches = balanced_batches(labels, 16, rng)
    for step in range(TUNING[-1] + 1):
        if step in TUNING:
            yield network
        rows = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(network(torch.from_numpy(moved(x[rows], rng)), 0), torch.from_numpy(labels[rows])).backward()
        optimizer.step()


def _loss(network: IsometricNetwork, x: Array, labels: Array) -> float:
    with torch.no_grad():
        return F.cross_entropy(network(torch.from_numpy(x), 0), torch.from_numpy(labels)).item()
