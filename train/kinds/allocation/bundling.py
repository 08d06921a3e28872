"""Convert a trained torch network to a bundle, and a bundle's signatures back to a torch network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.train.kinds.allocation.network import ModularNetwork

__all__ = ["bundle_from_network", "network_from_bundle"]


def bundle_from_network(
    network: ModularNetwork, classes: Mapping[str, tuple[str, ...]], masks: Sequence[Array], *, training: Mapping[str, Any]
) -> Bundle:  # fmt: skip
    """Make a bundle with the network's components and one complete base signature per task.

    Args:
        network: A trained network.
        classes: Task name → labels, in the network's order of tasks.
        masks: Each task's mask, shape (L, C), bool.
        training: The record of the training run for ``bundle.json``.
    """
    arrays = {name: np.ascontiguousarray(tensor.detach().numpy()) for name, tensor in network.tensors().items()}
    digest = template_digest(network.spec, arrays)
    heads, biases = network.heads.detach().numpy(), network.biases.detach().numpy()
    signatures = {
        name: Signature(
            parts={"allocation": masks[task], "logits.weight": heads[task, : len(labels)], "logits.bias": biases[task, : len(labels)]},
            template=digest, task=name, labels=labels, kind=network.spec.kind,
        )
        for task, (name, labels) in enumerate(classes.items())
    }  # fmt: skip
    return Bundle.create(spec=network.spec, tensors=arrays, signatures=signatures, training=training)


@torch.no_grad()
def network_from_bundle(
    bundle: Bundle, signatures: Mapping[str, Signature]
) -> tuple[ModularNetwork, list[torch.Tensor]]:
    """Make a network that runs these signatures on the bundle's components.

    Args:
        bundle: Source of the components and inherited parts.
        signatures: Task name → signature that fits the bundle.

    Returns:
        The network, whose tasks are in their order, and each task's mask, shape (L, C), 0 or 1.

    Raises:
        SignatureError: If a signature does not fit.
    """
    resolved = [bundle.resolve(signature).parts for signature in signatures.values()]
    classes = [len(parts["logits.bias"]) for parts in resolved]
    network = ModularNetwork(bundle.network.spec, classes, initial=0.5, generator=torch.Generator())
    for name, tensor in network.tensors().items():
        # np.array makes a copy: torch warns about read-only arrays, as a bundle's are
        tensor.copy_(torch.from_numpy(np.array(bundle.tensors[name])))
    for task, parts in enumerate(resolved):
        network.heads[task, : classes[task]] = torch.from_numpy(np.array(parts["logits.weight"]))
        network.biases[task, : classes[task]] = torch.from_numpy(np.array(parts["logits.bias"]))
    return network, [torch.from_numpy(parts["allocation"].astype(np.float32)) for parts in resolved]
