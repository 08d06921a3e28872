"""The kind ``allocation``: implementation of ``isoform.runtime.kind.Kind``. Source: Gumbel-Matrix, section III.

With z the masks, bits per layer and component, and w the weights of signatures (Σ w = 1):

    average      a component is used if Σ w z_i ≥ ½; the logits layers' mean
    distance     mean over all components of |z_a - z_b|: the share that one uses and the other does not (Hamming)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kind import HEAD, Change, Part
from isoform.runtime.kinds.allocation.network import ModularNetwork
from isoform.runtime.kinds.allocation.spec import ModularSpec

if TYPE_CHECKING:
    from isoform.runtime.formats.bundle import Bundle

__all__ = ["KIND", "AllocationKind"]


class AllocationKind:
    """A ``Kind`` in which every task uses some of the components of each layer."""

    name = "allocation"
    parts: Mapping[str, Part] = {"allocation": Part(2, "bit"), "logits.weight": Part(2), "logits.bias": Part(1)}
    smallest = "allocation"
    moves: Mapping[str, tuple[str, ...]] = {"allocation": ("allocation",), "head": HEAD}
    default_moves = full_moves = ("allocation", "head")
    searched = frozenset({"allocation"})

    def read_spec(self, value: object) -> ModularSpec:
        """As ``Kind.read_spec``."""
        return ModularSpec.from_json(value)

    def check_part(self, name: str, array: Array) -> None:
        """As ``Kind.check_part``: any bits are a mask."""

    def average(self, name: str, arrays: Sequence[Array], share: Array) -> Array:
        """As ``Kind.average``: the majority of masks, the mean of logits layers."""
        mean: Array = np.tensordot(share, np.stack(arrays).astype(np.float64), axes=1)
        # rounding must not decide when two of two equal shares disagree: ½ counts as used
        return mean >= 0.5 - 1e-9 if name == "allocation" else mean.astype(np.float32)

    def usage(self, parts: Mapping[str, Array]) -> Array:
        """Return the mask as numbers, shape (L, C), 0 or 1."""
        return parts["allocation"].astype(np.float64)

    def distance(self, first: Mapping[str, Array], second: Mapping[str, Array]) -> float:
        """Return the share of components that only one of the two uses, 0 to 1: the Hamming distance of the task embeddings."""
        return float((first["allocation"] ^ second["allocation"]).mean())

    def describe(self, parts: Mapping[str, Array]) -> dict[str, Any]:
        """Return the mask, a text of 0 and 1 per layer, and the number of components in use, if there is a mask."""
        if "allocation" not in parts:
            return {}
        mask = parts["allocation"]
        return {
            "components": int(mask.sum()),
            "allocation": ["".join(map(str, row)) for row in mask.astype(int).tolist()],
        }

    def changes(self, spec: ModularSpec, others: Sequence[Mapping[str, Array]]) -> list[Change]:
        """As ``Kind.changes``: layer by layer the rows of other tasks' masks, then single components, on or off; from the last layer on."""
        found: list[Change] = []
        for layer in reversed(range(len(spec.layers))):
            rows = {other["allocation"][layer].tobytes(): other["allocation"][layer] for other in others}
            found += [functools.partial(_with_row, layer=layer, row=row) for row in rows.values()]
        for layer in reversed(range(len(spec.layers))):
            found += [
                functools.partial(_flipped, layer=layer, place=place)
                for place in range(len(spec.layers[layer].components))
            ]
        return found

    def network(self, spec: ModularSpec, templates: Mapping[str, Array]) -> ModularNetwork:
        """As ``Kind.network``."""
        return ModularNetwork(spec, templates)

    def learner(self, bundle: Bundle, *, threads: int) -> None:
        """As ``Kind.learner``: none yet."""


def _with_row(parts: Mapping[str, Array], *, layer: int, row: Array) -> dict[str, Array]:
    """Give a layer the components of another task."""
    mask = parts["allocation"].copy()
    mask[layer] = row
    return {} if np.array_equal(mask, parts["allocation"]) else {"allocation": mask}


def _flipped(parts: Mapping[str, Array], *, layer: int, place: int) -> dict[str, Array]:
    """Use a component that was not used, or stop using one; a layer keeps at least one."""
    mask = parts["allocation"].copy()
    mask[layer, place] ^= True
    return {"allocation": mask} if mask[layer].any() else {}


KIND = AllocationKind()
