"""The network of a bundle of kind ``allocation``, and its graphs: one per mask, with that mask's components alone, and one for any mask."""

from __future__ import annotations

from collections.abc import Mapping

from isoform.runtime.arrays import Array
from isoform.runtime.inputs import Input
from isoform.runtime.kind import HEAD
from isoform.runtime.kinds.allocation.fold import fold, gated, weight_shapes
from isoform.runtime.kinds.allocation.masks import ANY, checked_mask, mask_named, name_of
from isoform.runtime.kinds.allocation.reference import reference_logits
from isoform.runtime.kinds.allocation.spec import ModularSpec
from isoform.runtime.layout import Layout

__all__ = ["ModularNetwork"]


class ModularGraph:
    """A ``Graph`` of this kind.

    Args:
        spec: The network's sizes.
        templates: ``spec.template_shapes``' names → float32 arrays.
        mask: The components that it has, shape (L, C), bool; None for all of them, with the mask in the weights.
    """

    def __init__(self, spec: ModularSpec, templates: Mapping[str, Array], mask: Array | None) -> None:
        self.mask, self._spec, self._templates = mask, spec, templates
        self.weights = weight_shapes(spec, mask)
        if mask is None:
            changing = gated(spec, None)
            self.constants = {name: templates[name] for name in self.weights if name not in changing}
        else:
            self.constants = fold(spec, templates, mask, graph=mask)

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
        if self.mask is not None:
            return {**self.constants, **head}
        return {**fold(self._spec, self._templates, parts["allocation"], graph=None), **head}

    def folder(self, layout: Layout) -> None:
        """As ``Graph.folder``: none, for a mask's weights are constants, and those of any mask are gathered."""


class ModularNetwork:
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
