"""The network of a bundle of kind ``mixture``: templates and sizes, as ``isoform.runtime.kind.Network`` and ``Graph``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.inputs import Input
from isoform.runtime.kind import Kernel, OneGraph
from isoform.runtime.kinds.mixture import fold
from isoform.runtime.kinds.mixture.cuda.kernel import kernel_of
from isoform.runtime.kinds.mixture.laid_fold import LaidFold, row_size
from isoform.runtime.kinds.mixture.reference import reference_logits
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.layout import Layout

__all__ = ["MixtureNetwork"]


class MixtureNetwork(OneGraph):
    """The ``Network`` of this kind, and its only ``Graph``.

    Args:
        spec: The network's sizes.
        templates: ``spec.template_shapes``' names → float32 arrays.
    """

    def __init__(self, spec: NetworkSpec, templates: Mapping[str, Array]) -> None:
        self.spec, self._templates = spec, templates

    @property
    def input(self) -> Input:
        """As ``Graph.input``."""
        return self.spec.input_of("")  # the same for every task

    @property
    def embedding(self) -> int:
        """As ``Graph.embedding``."""
        return self.spec.embedding

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """As ``Graph.weights``."""
        return fold.folded_shapes(self.spec)

    @property
    def constants(self) -> dict[str, Array]:
        """As ``Graph.constants``: the embedding."""
        return {name: self._templates[name] for name in fold.CONSTANTS}

    def complete(self, task: str, parts: Mapping[str, Array]) -> dict[str, Array]:
        """As ``Network.complete``: coefficients are 0, and γ and β are computed from the templates, if the parts have none."""
        found = dict(parts)
        for name in ("delta", "bn.coefficients"):
            if name in self.spec.part_shapes and name not in found:
                found[name] = np.zeros(self.spec.part_shapes[name], dtype=np.int64)
        if "bn.affine" not in found:
            found["bn.affine"] = fold.shared_affine(self.spec, self._templates, found["mixture"])
        return found

    def fold(self, parts: Mapping[str, Array]) -> dict[str, Array]:
        """As ``Graph.fold``."""
        return fold.fold(self.spec, self._templates, parts)

    def folder(self, layout: Layout) -> LaidFold | None:
        """As ``Graph.folder``."""
        size = row_size(layout, self.spec)
        return None if size is None else LaidFold(self.spec, self._templates, layout, size)

    def kernel(self, places: Mapping[str, tuple[tuple[int, ...], int]], *, row: int, half: bool) -> Kernel:
        """As ``Graph.kernel``: always."""
        return kernel_of(self.spec, places, self.constants, row=row, half=half)

    def reference(self, task: str, parts: Mapping[str, Array], x: Array) -> Array:
        """As ``Network.reference``."""
        return reference_logits(self.spec, self._templates, parts, x)
