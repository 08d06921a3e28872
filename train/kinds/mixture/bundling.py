"""Between torch and files: a trained network becomes a bundle, and a bundle's signatures become a network again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.train.kinds.mixture.network import IsometricNetwork

__all__ = ["bundle_from_network", "network_from_bundle"]


def bundle_from_network(
    network: IsometricNetwork, classes: Mapping[str, tuple[str, ...]], *, training: Mapping[str, Any]
) -> Bundle:
    """A bundle with the network's templates, and one complete base signature per task.

    Args:
        network: A trained network.
        classes: Task name → labels, in the network's order of tasks.
        training: What to record of how it was trained.
    """
    spec = network.spec
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    arrays, start = {}, 0
    for name, shape in spec.block_shapes.items():
        size = math.prod(shape)
        arrays[f"template.{name}"] = state["templates"][:, start : start + size].reshape(spec.templates, *shape)
        start += size
    arrays["input_adapter.weight"], arrays["output_adapter.weight"] = state["input_adapter"], state["output_adapter"]
    arrays["embedding.weight"], arrays["embedding.bias"] = state["embedding_weight"], state["embedding_bias"]
    if spec.affine != "task":
        arrays["bn.affine"] = state["bn_affine"][0]
    digest = template_digest(spec, arrays)
    signatures = {}
    for index, (name, labels) in enumerate(classes.items()):
        parts = {
            "mixture": state["mixture"][index], "bn.statistics": state["bn_statistics"][index],
            "logits.weight": state[f"heads.{2 * index}"], "logits.bias": state[f"heads.{2 * index + 1}"],
        }  # fmt: skip
        if spec.affine == "task":
            parts["bn.affine"] = state["bn_affine"][index]
        signatures[name] = Signature(parts=parts, template=digest, task=name, labels=labels)
    return Bundle.create(spec=spec, tensors=arrays, signatures=signatures, training=training)


def network_from_bundle(bundle: Bundle, signatures: Mapping[str, Signature]) -> IsometricNetwork:
    """A network that runs these signatures on the bundle's templates, task after task in their order.

    Args:
        bundle: Where the templates and inherited parts come from.
        signatures: Task name → signature that fits the bundle.

    Raises:
        SignatureError: If one does not fit.
    """
    spec, arrays = bundle.network.spec, bundle.tensors
    resolved = [bundle.resolve(signature).parts for signature in signatures.values()]
    network = IsometricNetwork(
        spec, tuple(len(parts["logits.bias"]) for parts in resolved), generator=torch.Generator()
    )
    state = {
        "templates": np.concatenate([arrays[f"template.{name}"].reshape(spec.templates, -1) for name in spec.block_shapes], axis=1),
        "input_adapter": arrays["input_adapter.weight"], "output_adapter": arrays["output_adapter.weight"],
        "embedding_weight": arrays["embedding.weight"], "embedding_bias": arrays["embedding.bias"],
        "mixture": np.stack([parts["mixture"] for parts in resolved]),
        "bn_statistics": np.stack([parts["bn.statistics"] for parts in resolved]),
        "bn_affine": np.stack([parts["bn.affine"] for parts in resolved]) if spec.affine == "task" else arrays["bn.affine"][None],
    }  # fmt: skip
    for index, parts in enumerate(resolved):
        state[f"heads.{2 * index}"], state[f"heads.{2 * index + 1}"] = parts["logits.weight"], parts["logits.bias"]
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return network
