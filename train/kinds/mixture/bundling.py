"""Convert a trained torch network to a bundle, and a bundle's signatures back to a torch network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from isoform.runtime.arrays import Array
from isoform.runtime.errors import SignatureError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.runtime.kinds.mixture.directions import STEP
from isoform.runtime.kinds.mixture.fold import shared_affine
from isoform.runtime.kinds.mixture.normalisation import bn_directions, packed
from isoform.train.kinds.mixture.network import IsometricNetwork

__all__ = ["bundle_from_network", "network_from_bundle"]


def bundle_from_network(
    network: IsometricNetwork,
    classes: Mapping[str, tuple[str, ...]],
    *,
    training: Mapping[str, Any],
    start: Bundle | None = None,
) -> Bundle:
    """Make a bundle with the network's templates and one complete base signature per task.

    Args:
        network: A trained network.
        classes: Task name → labels, in the network's order of tasks.
        training: The record of the training run for ``bundle.json``.
        start: The bundle whose templates the network has, unchanged; None if they were trained.
    """
    spec = network.spec
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    arrays = _shared(network, state) if start is None else dict(start.tensors)
    digest = template_digest(spec, arrays)
    signatures = {}
    for index, (name, labels) in enumerate(classes.items()):
        parts = {
            "mixture": state["mixture"][index], "bn.statistics": state["bn_statistics"][index],
            "logits.weight": state[f"heads.{2 * index}"], "logits.bias": state[f"heads.{2 * index + 1}"],
        }  # fmt: skip
        if network.delta is not None:
            whole = (state["delta"][index] / STEP).round().astype(np.int64)
            parts["delta"] = np.pad(whole, ((0, 0), (0, spec.random_directions)))
        if network.own_affine:  # otherwise γ and β are shared and lie with the templates
            parts["bn.affine"] = state["bn_affine"][index]
        signatures[name] = Signature(parts=parts, template=digest, task=name, labels=labels)
    return Bundle.create(spec=spec, tensors=arrays, signatures=signatures, training=training)


def _shared(network: IsometricNetwork, state: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays of ``templates.safetensors``."""
    spec = network.spec
    # Θ holds each template as one row; a bundle has a named tensor per part of the block.
    arrays, start = {}, 0
    for name, shape in spec.block_shapes.items():
        size = math.prod(shape)
        arrays[f"template.{name}"] = state["templates"][:, start : start + size].reshape(spec.templates, *shape)
        start += size
    arrays["input_adapter.weight"], arrays["output_adapter.weight"] = state["input_adapter"], state["output_adapter"]
    arrays["embedding.weight"], arrays["embedding.bias"] = state["embedding_weight"], state["embedding_bias"]
    if spec.affine != "task":
        arrays["bn.affine"] = state["bn_affine"][0]
    if spec.bn_directions:
        arrays |= packed(state["bn_directions"])
    return arrays


def network_from_bundle(bundle: Bundle, signatures: Mapping[str, Signature]) -> IsometricNetwork:
    """Make a network that runs these signatures on the bundle's templates; its tasks are in their order.

    Args:
        bundle: Source of the templates and inherited parts.
        signatures: Task name → signature that fits the bundle.

    Raises:
        SignatureError: If a signature does not fit, has a ``delta`` along random directions, or has ``bn.coefficients``: this network has neither.
    """
    spec, arrays = bundle.network.spec, bundle.tensors
    resolved = [bundle.resolve(signature).parts for signature in signatures.values()]
    deltas = [parts.get("delta", np.zeros((spec.layers, spec.templates), np.int64)) for parts in resolved]
    for name, delta, parts in zip(signatures, deltas, resolved, strict=True):
        random, moved = delta[:, spec.templates :], parts.get("bn.coefficients", np.zeros(0))
        for part, values in (("delta along random directions", random), ("bn.coefficients", moved)):
            if values.any():
                raise SignatureError(
                    f"signature {name!r} has a {part}, which a network in torch does not have; use one without, or the runtime"
                )
    own = spec.affine == "task" or any(
        not np.array_equal(parts["bn.affine"], shared_affine(spec, arrays, parts["mixture"])) for parts in resolved
    )
    network = IsometricNetwork(
        spec, tuple(len(parts["logits.bias"]) for parts in resolved), generator=torch.Generator(), own_affine=own
    )
    state = {
        "templates": np.concatenate([arrays[f"template.{name}"].reshape(spec.templates, -1) for name in spec.block_shapes], axis=1),
        "input_adapter": arrays["input_adapter.weight"], "output_adapter": arrays["output_adapter.weight"],
        "embedding_weight": arrays["embedding.weight"], "embedding_bias": arrays["embedding.bias"],
        "mixture": np.stack([parts["mixture"] for parts in resolved]), "temperature": np.float32(1),
        "bn_statistics": np.stack([parts["bn.statistics"] for parts in resolved]),
        "bn_affine": np.stack([parts["bn.affine"] for parts in resolved]) if own else arrays["bn.affine"][None],
    }  # fmt: skip
    if any(delta.any() for delta in deltas):
        state["delta"] = STEP * np.stack([delta[:, : spec.templates] for delta in deltas]).astype(np.float32)
        network.delta = torch.nn.Parameter(torch.zeros_like(network.mixture))
    if spec.bn_directions:
        state["bn_directions"] = bn_directions(arrays)
    else:
        state["bn_directions"] = np.zeros((0, 2, spec.bn_channels), dtype=np.float32)
    for index, parts in enumerate(resolved):
        state[f"heads.{2 * index}"], state[f"heads.{2 * index + 1}"] = parts["logits.weight"], parts["logits.bias"]
    # np.array makes a copy: torch warns about read-only arrays, as a bundle's are.
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return network
