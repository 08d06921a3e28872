"""The network of a bundle of kind ``allocation``, and its graphs: one per mask, with that mask's components alone, and one for any mask."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.inputs import Input
from isoform.runtime.kind import HEAD, NoFront, NoKernel
from isoform.runtime.kinds.allocation.fold import fold, gated, weight_shapes
from isoform.runtime.kinds.allocation.masks import ANY, checked_mask, mask_named, name_of
from isoform.runtime.kinds.allocation.reference import reference_logits
from isoform.runtime.kinds.allocation.spec import ModularSpec
from isoform.runtime.layout import Layout

__all__ = ["ModularNetwork"]


class ModularGraph(NoKernel):
    """A ``Graph`` of this kind.

    Args:
        spec: The network's sizes.
        templates: ``spec.template_shapes``' names → float32 arrays.
        mask: The components that it has, shape (L, C), bool; None for all of them, with the mask in the weights.
    """

    def __init__(self, spec: ModularSpec, templates: Mapping[str, Array], mask: Array | None) -> None:
        self.mask, self._spec, self._templates = mask, spec, templates

    @functools.cached_property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """As ``Graph.weights``."""
        return weight_shapes(self._spec, self.mask)

    @property  # not cached: an engine needs the values once, when it makes a plan
    def constants(self) -> dict[str, Array]:
        """As ``Graph.constants``: all weights of a mask's own graph, and those that no gate scales in the graph for any."""
        used = np.array(self._spec.exists) if self.mask is None else self.mask
        values = fold(self._spec, self._templates, used, graph=self.mask)
        changing = gated(self._spec, None) if self.mask is None else frozenset()
        return {name: value for name, value in values.items() if name not in changing}

    @property
    def input(self) -> Input:
        """As ``Graph.input``."""
        return self._spec.input_of("")  # the same for every task

    @property
    def embedding(self) -> int:
        """As ``Graph.embedding``."""
        return self._spec.embedding

    def fold(self, parts: Mapping[str, Array]) -> dict[str, Array]:
        """As ``Graph.fold``."""
        head = {name: parts[name] for name in HEAD}
        return {**fold(self._spec, self._templates, parts["allocation"], graph=self.mask), **head}

    def folder(self, layout: Layout) -> None:
        """As ``Graph.folder``: none, for a mask's weights are constants, and those of any mask are gathered."""


class ModularNetwork(NoFront):
    """The ``Network`` of this kind.

    Args:
        spec: The network's sizes.
        templates: ``spec.template_shapes``' names → float32 arrays.
    """

    def __init__(self, spec: ModularSpec, templates: Mapping[str, Array]) -> None:
        self.spec, self._templates = spec, templates

    def complete(self, task: str, parts: Mapping[str, Array]) -> dict[str, Array]:
        """As ``Network.complete``: nothing is computed. Raises ``SignatureError`` if a component does not exist."""
        checked_mask(self.spec, parts["allocation"])
        return dict(parts)

    def graphs(self, task: str, parts: Mapping[str, Array]) -> tuple[str, ...]:
        """As ``Network.graphs``: the graph with the mask's components alone, then the one for any mask."""
        own = name_of(parts["allocation"])
        return (ANY,) if own is None else (own, ANY)

    def graph(self, name: str) -> ModularGraph:
        """As ``Network.graph``. Raises ``SignatureError`` if this network has no such graph."""
        return ModularGraph(self.spec, self._templates, mask_named(self.spec, name))

    def reference(self, task: str, parts: Mapping[str, Array], x: Array) -> Array:
        """As ``Network.reference``."""
        return reference_logits(self.spec, self._templates, parts, x)
