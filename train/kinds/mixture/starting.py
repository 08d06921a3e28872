"""A network for new tasks on the templates of a bundle: transfer learning.

Every new task starts from the mixture weights Ξ, the BN parameters and BN statistics of one task ν of the bundle, which work far better than
random ones, and trains them with a logits layer of its own. So a task adds its signature to templates that stay as they are, bit for bit.

A layer that uses one template alone has no gradient through its softmax; it starts with a little of the others instead (``softened``).

Source: Compositional Models, section 4.3 and table 2; the rows of the table are combinations of ``start.random`` and ``start.trains``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from isoform.runtime.errors import RecipeError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.mixture.learn.soft import softened
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.train.kinds.mixture.bundling import network_from_bundle
from isoform.train.kinds.mixture.network import IsometricNetwork
from isoform.train.kinds.mixture.objectives import LEARNED
from isoform.train.kinds.mixture.patterns import start_signatures
from isoform.train.kinds.mixture.recipe import MixtureRecipe, StartTable

__all__ = ["moves_statistics", "network_to_start", "start_bundle"]


def start_bundle(table: StartTable, *, input_shape: tuple[int, int, int]) -> Bundle:
    """Load the bundle to start from.

    Raises:
        BundleError: If it cannot be read, or has no such task.
        RecipeError: If it is of another kind, or its samples have another shape than the recipe's.
    """
    bundle = Bundle.load(table.bundle, with_compiled=False)
    spec = bundle.network.spec
    if not isinstance(spec, NetworkSpec):
        raise RecipeError(
            f"start.bundle is {table.bundle}, of kind {spec.kind!r}, but one of kind 'mixture' was expected"
        )
    if spec.input_shape != input_shape:
        raise RecipeError(
            f"start.bundle is {table.bundle}, whose samples have the shape {list(spec.input_shape)}, but data.input_shape is {list(input_shape)}"
        )
    return bundle


def network_to_start(
    recipe: MixtureRecipe, table: StartTable, bundle: Bundle, classes: Mapping[str, tuple[str, ...]]
) -> IsometricNetwork:
    """Make the network.

    Args:
        recipe: The recipe; its seed is that of new logits layers and mixture weights.
        table: ``recipe.start``: what the tasks start from, and what is trained.
        bundle: The result of ``start_bundle``.
        classes: New task → labels.

    Returns:
        A network in which everything but ``table.trains`` has ``requires_grad`` False.

    Raises:
        RecipeError: If logits layers of other classes would not be trained.
    """
    signature = table.source(bundle)
    source = network_from_bundle(bundle, {signature.task: signature})
    # γ and β that are shared, or mixed with the templates, become each task's own where they are trained and the templates are not
    own = source.own_affine or ("bn" in table.trains and "templates" not in table.trains)
    generator, count = torch.Generator().manual_seed(recipe.seed), len(classes)
    network = IsometricNetwork(source.spec, tuple(map(len, classes.values())), generator=generator, own_affine=own)
    fresh, found = network.state_dict(), source.state_dict()
    state = {
        name: value if name.startswith("heads.") else _repeated(found[name], value) for name, value in fresh.items()
    }
    for task, (name, labels) in enumerate(classes.items()):
        if labels == signature.labels:
            state |= {f"heads.{2 * task + place}": found[f"heads.{place}"] for place in (0, 1)}
        elif "head" not in table.trains:
            raise RecipeError(
                f"start.trains has no 'head', but task {name!r} has other classes than {signature.task!r} of {table.bundle}; add it"
            )
    if own:
        affine = torch.from_numpy(np.array(bundle.resolve(signature).parts["bn.affine"]))
        state["bn_affine"] = affine.repeat(count, 1, 1)
    shape = recipe.mixture.signature
    if table.random:
        state["mixture"] = fresh["mixture"]
    elif "mixture" in table.trains and shape in LEARNED:
        soft = torch.from_numpy(softened(signature.parts["mixture"]).astype(np.float32))
        state["mixture"] = (soft * recipe.mixture.temperature).repeat(count, 1, 1)
    network.load_state_dict(state)
    if table.random:
        start_signatures(network, recipe.mixture, seed=recipe.seed)
    elif shape == "free":
        network.mixture.requires_grad_(False)
        delta = torch.zeros_like(network.mixture) if source.delta is None else source.delta.detach().repeat(count, 1, 1)
        network.delta = nn.Parameter(delta)
    elif shape == "learned" and source.delta is not None:
        network.delta = nn.Parameter(source.delta.detach().repeat(count, 1, 1))
    network.discrete = shape == "discrete"
    _freeze(network, table)
    return network


def _repeated(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return what the one task of the source has, for each of the new tasks."""
    return value if value.shape == like.shape else value.expand(like.shape).clone()


def _freeze(network: IsometricNetwork, table: StartTable) -> None:
    trained = {"mixture": "mixture", "delta": "mixture", "bn_affine": "bn"}
    for name, parameter in network.named_parameters():
        part = "head" if name.startswith("heads.") else trained.get(name, "templates")
        parameter.requires_grad_(parameter.requires_grad and part in table.trains)


def moves_statistics(table: StartTable) -> bool:
    """Whether BN's statistics are the new tasks' own: not if only the logits layers are trained."""
    return {*table.trains} != {"head"}
