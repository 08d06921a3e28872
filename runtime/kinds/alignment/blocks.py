"""Blocks from hypermodules and contexts, in numpy: z_ℓ H_ψ(ℓ), and the gradient of z_ℓ. Source: MUIR, equation 5."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.alignment.spec import AlignmentSpec

__all__ = ["block_gradients", "generated"]


def generated(spec: AlignmentSpec, templates: Mapping[str, Array], alignment: Array, contexts: Array | None) -> Array:
    """Generate the blocks of all locations of a task.

    Args:
        spec: The bundle's sizes.
        templates: Holds ``hypermodules``, (K, c, m · n), and ``blocks``, (S, m · n).
        alignment: ψ, shape (L,).
        contexts: z of the locations with ψ < K, in their order, shape (G, c); None if there are none.

    Returns:
        Shape (L, m · n), float32.
    """
    found = np.empty((len(alignment), spec.m * spec.n), dtype=np.float32)
    specific = alignment >= spec.hypermodules
    if specific.any():
        found[specific] = templates["blocks"][alignment[specific] - spec.hypermodules]
    if contexts is not None:
        places = np.flatnonzero(~specific)
        for module, rows in _by_module(alignment[places]):
            found[places[rows]] = contexts[rows].astype(np.float32) @ templates["hypermodules"][module]
    return found


def block_gradients(spec: AlignmentSpec, templates: Mapping[str, Array], alignment: Array, gradients: Array) -> Array:
    """Return the gradients of the contexts, shape (G, c), float64, given those of all blocks, shape (L, m · n)."""
    places = np.flatnonzero(alignment < spec.hypermodules)
    found = np.empty((len(places), spec.context))
    for module, rows in _by_module(alignment[places]):
        found[rows] = gradients[places[rows]] @ templates["hypermodules"][module].T
    return found


def _by_module(modules: Array) -> Iterator[tuple[int, Array]]:
    """Return each module that occurs, with the places where it does: one product per module reads every hypermodule once."""
    order = np.argsort(modules, kind="stable")
    used, first = np.unique(modules[order], return_index=True)
    yield from zip(used.tolist(), np.split(order, first[1:]), strict=True)
