"""Tent in torch, on the same network: the rival, as its authors' code does it.

Statistics of the batch in every BN, also in the gradient; Adam on all γ and β; logits of the forward pass before the step.
Source: Wang et al. 2021, "Tent"; its code for β₁ = 0.9 and the rate of 1e-3.
"""

from __future__ import annotations

import torch

from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.train.kinds.mixture.bundling import network_from_bundle

__all__ = ["TorchTent"]


class TorchTent:
    """Call it with samples, get logits; it learns on the way. One thread."""

    def __init__(self, bundle: Bundle, task: str, *, lr: float = 1e-3) -> None:
        torch.set_num_threads(1)
        self._network = network_from_bundle(bundle, {task: bundle.base(task)})
        for name, parameter in self._network.named_parameters():
            parameter.requires_grad_(name == "bn_affine")
        self._optimizer = torch.optim.Adam([self._network.bn_affine], lr=lr)

    def __call__(self, x: Array) -> Array:
        """Predict, and take a step."""
        logits = self._network(torch.from_numpy(x), 0, momentum=0.1)
        entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        self._optimizer.zero_grad()
        torch.autograd.backward(entropy)
        self._optimizer.step()
        result: Array = logits.detach().numpy()
        return result

    def forward(self, x: Array) -> Array:
        """A forward pass alone, with the base's statistics."""
        with torch.no_grad():
            result: Array = self._network(torch.from_numpy(x), 0).numpy()
        return result
