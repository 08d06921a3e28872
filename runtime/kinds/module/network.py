"""The network of a bundle of kind ``module``: its weights from shared tensors, mixtures of templates, and a signature."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.bodies.reference import checked_body, evaluate
from isoform.runtime.inputs import Input
from isoform.runtime.kind import HEAD, Front, OneGraph
from isoform.runtime.kinds.module.spec import ModuleSpec
from isoform.runtime.layout import Layout

__all__ = ["ModuleNetwork"]


class ModuleNetwork(OneGraph):
    """The ``Network`` of this kind, and its only ``Graph``.

    Args:
        spec: The network's sizes.
        templates: ``spec.template_shapes``' names → arrays.
    """

    def __init__(self, spec: ModuleSpec, templates: Mapping[str, Array]) -> None:
        self.spec, self._templates = spec, templates

    @functools.cached_property
    def body(self) -> bytes:
        """The ONNX file of the body. Raises ``BundleError`` if it would make a reader open other files."""
        return checked_body(self._templates["body"].tobytes())

    def front(self, task: str) -> Front | None:
        """As ``Network.front``: the same for every task. Raises ``BundleError`` if it would make a reader open other files."""
        if self.spec.samples is None:
            return None
        return Front(checked_body(self._templates["front"].tobytes()), self.spec.samples, self.spec.body.input)

    @property
    def input(self) -> Input:
        """As ``Graph.input``."""
        return self.spec.body.input

    @property
    def embedding(self) -> int:
        """As ``Graph.embedding``."""
        return self.spec.body.embedding

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """As ``Graph.weights``."""
        return self.spec.body.graph_weights

    @functools.cached_property
    def constants(self) -> dict[str, Array]:
        """As ``Graph.constants``: the shared weights, and BN if it is shared."""
        spec = self.spec
        found = {name: self._templates[f"shared.{name}"] for name in spec.shared if name not in spec.deltas}
        if spec.body.norms and not spec.body.private_norms:
            found |= spec.body.normalisation(self._templates["bn.affine"], self._templates["bn.statistics"])
        return found

    def complete(self, task: str, parts: Mapping[str, Array]) -> dict[str, Array]:
        """As ``Network.complete``: nothing is computed."""
        return dict(parts)

    def fold(self, parts: Mapping[str, Array]) -> dict[str, Array]:
        """As ``Graph.fold``."""
        spec, found = self.spec, dict(self.constants)
        if spec.private:
            found |= spec.body.split(parts["private"], spec.private)
        if spec.groups:
            found |= self._mixed(parts["mixture"])
        for name, up in spec.ups(parts["delta"]).items() if spec.deltas else ():
            first = self._templates[f"shared.{name}"]
            found[name] = first + (up @ self._templates[f"down.{name}"]).reshape(first.shape)
        if spec.body.private_norms and spec.body.norms:
            found |= spec.body.normalisation(parts["bn.affine"], parts["bn.statistics"])
        return {name: np.ascontiguousarray(found[name]) for name in self.weights} | {name: parts[name] for name in HEAD}

    def _mixed(self, coefficients: Array) -> dict[str, Array]:
        """Compute the mixed weights: W_ℓ = Σ_k a_ℓk θ_k, group by group."""
        found: dict[str, Array] = {}
        for number, (group, rows) in enumerate(
            zip(self.spec.groups, self.spec.coefficients(coefficients), strict=True)
        ):
            templates = self._templates[f"templates{number:02d}"]
            mixed = (rows @ templates.reshape(len(group), -1)).reshape(templates.shape)
            found |= dict(zip(group, mixed, strict=True))
        return found

    def chain(self, parts: Mapping[str, Array], gradients: Mapping[str, Array]) -> dict[str, Array]:
        """As ``Parts.chain``: dL/da_ℓk = ⟨dL/dW_ℓ, θ_k⟩, dL/dU = dL/dW Vᵀ."""
        spec, found = self.spec, dict[str, Array]()
        if spec.private:
            found["private"] = np.concatenate([gradients[name].ravel() for name in spec.private]).astype(np.float64)
        if spec.deltas:
            ups = [
                gradients[name].reshape(len(gradients[name]), -1) @ self._templates[f"down.{name}"].T
                for name in spec.deltas
            ]
            found["delta"] = np.concatenate([up.ravel() for up in ups]).astype(np.float64)
        if spec.groups:
            rows = []
            for number, group in enumerate(spec.groups):
                templates = self._templates[f"templates{number:02d}"].reshape(len(group), -1)
                rows.append((np.stack([gradients[name].ravel() for name in group]) @ templates.T).ravel())
            found["mixture"] = np.concatenate(rows).astype(np.float64)
        return found

    def folder(self, layout: Layout) -> None:
        """As ``Graph.folder``: none, the plain fold is gathered into the plan."""

    def reference(self, task: str, parts: Mapping[str, Array], x: Array) -> Array:
        """As ``Network.reference``."""
        return evaluate(self.body, {self.input.name: x, **self.fold(parts)})
