"""The fold of an allocation: the weights of the components that a mask uses, each scaled by its gate.

A gate g ≥ 0 is multiplied into the last operation of its component, because ReLU(g a) = g ReLU(a):

    conv [· ReLU]              g W, g b
    conv · GroupNorm · ReLU    g γ, g β
    pool, identity             a factor of its own, ``layer00.component04.gate``

So the mean over components is a sum in the graph, and a component that is not used has weights of 0. In a graph that holds one mask's
components alone, every weight is a constant; in the graph for any mask, only those of last operations change.

Components of a layer that are the same single convolution run as one convolution with the outputs of all, a *unit*: 4 convolutions to 4
feature maps take twice the time of one to 16.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.allocation.masks import gates_of
from isoform.runtime.kinds.allocation.operations import Operation, norm_shapes
from isoform.runtime.kinds.allocation.spec import ModularSpec, component_name, layer_name, operation_name

__all__ = ["Unit", "fold", "gated", "units_of", "weight_shapes"]


@dataclasses.dataclass(frozen=True)
class Unit:
    """One component, or several that run as one convolution."""

    layer: int
    places: tuple[int, ...]
    """Places of its components in the layer."""
    chain: tuple[Operation, ...]
    """The operations of each component; a single one if there are several components."""

    def name(self, step: int) -> str:
        """Return the prefix of the names of an operation's weights."""
        if len(self.places) == 1:
            return operation_name(self.layer, self.places[0], step)
        return f"{layer_name(self.layer)}.components{self.places[0]:02d}"

    @property
    def gate(self) -> str:
        """Name of the factor of a component without weights."""
        return f"{component_name(self.layer, self.places[0])}.gate"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of its weights, in order."""
        shapes = {
            f"{self.name(step)}.{part}": (len(self.places) * shape[0], *shape[1:])
            for step, operation in enumerate(self.chain)
            for part, shape in operation.shapes.items()
        }
        return shapes if self.chain[-1].shapes else {**shapes, self.gate: (1,)}

    @property
    def scaled(self) -> list[str]:
        """Names of the weights that gates scale."""
        last = self.chain[-1]
        if not last.shapes:
            return [self.gate]
        return [
            f"{self.name(len(self.chain) - 1)}.{part}"
            for part in (("gamma", "beta") if last.norm else ("weight", "bias"))
        ]

    def weights(self, templates: Mapping[str, Array], gates: Array) -> dict[str, Array]:
        """Return its weights, those of several components one after the other; ``gates`` of its layer, shape (C,)."""
        found, scaled = {}, frozenset(self.scaled)
        for step, operation in enumerate(self.chain):
            for part in operation.shapes:
                name = f"{self.name(step)}.{part}"
                parts = [templates[f"{operation_name(self.layer, place, step)}.{part}"] for place in self.places]
                if name in scaled:
                    parts = [array * gates[place] for array, place in zip(parts, self.places, strict=True)]
                found[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return found if self.chain[-1].shapes else {**found, self.gate: gates[[self.places[0]]]}


def units_of(spec: ModularSpec, mask: Array | None) -> list[list[Unit]]:
    """Return the units of every layer.

    Args:
        spec: The network's sizes.
        mask: Components that the graph has, shape (L, C), bool; None for all of them.
    """
    used = np.array(spec.exists) if mask is None else mask
    return [list(_units(spec, layer, used[layer])) for layer in range(len(spec.layers))]


def _units(spec: ModularSpec, layer: int, used: Array) -> Iterator[Unit]:
    components, texts = spec.geometry[layer].components, spec.layers[layer].components
    done: set[int] = set()
    for place, chain in enumerate(components):
        if used[place] and place not in done:
            alike = [other for other in range(place, len(texts)) if used[other] and texts[other] == texts[place]]
            places = tuple(alike) if len(chain) == 1 and chain[0].shapes else (place,)
            done |= {*places}
            yield Unit(layer, places, chain)


def weight_shapes(spec: ModularSpec, mask: Array | None) -> dict[str, tuple[int, ...]]:
    """Return name → shape of a graph's weights, in order, without the logits layer; arguments as for ``units_of``."""
    shapes = {name: shape for name, shape in spec.template_shapes.items() if name.startswith("stem.")}
    for number, units in enumerate(units_of(spec, mask)):
        for unit in units:
            shapes |= unit.shapes
        if spec.geometry[number].norm:
            shapes |= {f"{layer_name(number)}.{part}": shape for part, shape in norm_shapes(spec.channels).items()}
    return shapes


def gated(spec: ModularSpec, mask: Array | None) -> frozenset[str]:
    """Return the names among ``weight_shapes`` that gates scale."""
    return frozenset(name for units in units_of(spec, mask) for unit in units for name in unit.scaled)


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
    gates, found = gates_of(spec, mask), dict(templates)
    for units in units_of(spec, graph):
        for unit in units:
            found |= unit.weights(templates, gates[unit.layer])
    return {name: found[name] for name in weight_shapes(spec, graph)}
