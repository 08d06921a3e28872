"""The fold of an allocation: the weights of the components that a mask uses, each scaled by its gate.

A gate g ≥ 0 is multiplied into the last operation of its component, because ReLU(g a) = g ReLU(a):

    conv [· ReLU]              g W, g b
    conv · GroupNorm · ReLU    g γ, g β
    pool, identity             a factor of its own, ``layer00.component04.gate``

So the mean over components is a sum in the graph, and a component that is not used has weights of 0. In a graph that holds one mask's
components alone, every weight is a constant; in the graph for any mask, only those of last operations change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.allocation.masks import gates_of
from isoform.runtime.kinds.allocation.operations import Operation
from isoform.runtime.kinds.allocation.spec import ModularSpec, component_name, operation_name

__all__ = ["fold", "gate_name", "gated", "weight_shapes"]


def gate_name(layer: int, component: int) -> str:
    """Return the name of the factor of a component without weights."""
    return f"{component_name(layer, component)}.gate"


def weight_shapes(spec: ModularSpec, mask: Array | None) -> dict[str, tuple[int, ...]]:
    """Return name → shape of a graph's weights, in order, without the logits layer.

    Args:
        spec: The network's sizes.
        mask: Components that the graph has, shape (L, C), bool; None for all of them.
    """
    used = np.array(spec.exists) if mask is None else mask
    names = [name for name in spec.template_shapes if _is_used(name, used)]
    shapes = {name: spec.template_shapes[name] for name in names}
    return shapes | {
        gate_name(layer, place): (1,) for layer, place, chain in _chains(spec, used) if not chain[-1].shapes
    }


def gated(spec: ModularSpec, mask: Array | None) -> frozenset[str]:
    """Return the names among ``weight_shapes`` that gates scale."""
    used = np.array(spec.exists) if mask is None else mask
    return frozenset(name for layer, place, chain in _chains(spec, used) for name in _last(layer, place, chain))


def fold(spec: ModularSpec, templates: Mapping[str, Array], mask: Array, *, graph: Array | None) -> dict[str, Array]:
    """Compute the weights of a graph for a mask.

    Args:
        spec: The network's sizes.
        templates: ``spec.template_shapes``' names → float32 arrays.
        mask: The signature's allocation, shape (L, C), bool.
        graph: Components that the graph has; None for all of them.

    Returns:
        The names of ``weight_shapes`` in order; float32, C-contiguous.
    """
    used = np.array(spec.exists) if graph is None else graph
    gates = gates_of(spec, mask)
    factors: dict[str, np.float32] = {}
    for layer, place, chain in _chains(spec, used):
        factors |= dict.fromkeys(_last(layer, place, chain), gates[layer, place])
    one = np.ones(1, dtype=np.float32)
    return {
        name: np.ascontiguousarray(templates.get(name, one) * factors[name]) if name in factors else templates[name]
        for name in weight_shapes(spec, graph)
    }


def _chains(spec: ModularSpec, used: Array) -> Iterator[tuple[int, int, tuple[Operation, ...]]]:
    """Yield layer, place and operations of the components in use."""
    for layer, sizes in enumerate(spec.geometry):
        for place, chain in enumerate(sizes.components):
            if used[layer, place]:
                yield layer, place, chain


def _last(layer: int, place: int, chain: tuple[Operation, ...]) -> list[str]:
    """Return the names of the weights that a component's gate scales."""
    operation = chain[-1]
    if not operation.shapes:
        return [gate_name(layer, place)]
    parts = ("gamma", "beta") if operation.norm else ("weight", "bias")
    return [f"{operation_name(layer, place, len(chain) - 1)}.{part}" for part in parts]


def _is_used(name: str, used: Array) -> bool:
    """Return whether a template belongs to a component in use, or to no component."""
    layer, _, rest = name.partition(".component")
    return not rest or bool(used[int(layer.removeprefix("layer")), int(rest[:2])])
