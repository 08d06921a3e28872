"""The kind ``alignment``: implementation of ``isoform.runtime.kind.Kind``. Source: MUIR.

With p(k) the share of a signature's locations that use module k:

    average      of signatures with the same alignment: BN's variances by the law of total variance, the rest as numbers
    distance     ½ Σ_k |p_a(k) - p_b(k)|, the share of locations whose modules the other does not use as often; of any two architectures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import SignatureError
from isoform.runtime.kind import HEAD, Change, Part
from isoform.runtime.kinds.alignment.network import AlignedNetwork
from isoform.runtime.kinds.alignment.spec import AlignmentSpec
from isoform.runtime.learn.batch_norm import check_batch_norm, pooled

if TYPE_CHECKING:
    from isoform.runtime.bodies.tasks import TaskLearners
    from isoform.runtime.formats.bundle import Bundle

__all__ = ["KIND", "RATES", "AlignmentKind"]

RATES = {"contexts": 2e-3, "private": 2e-3, "bn.affine": 5e-3}
"""Adam's rate for each part."""
CELLS = 16
"""Number of rows, and of columns, of a figure."""


class AlignmentKind:
    """A ``Kind`` for networks of any architectures whose weights are cut into blocks that they share."""

    name = "alignment"
    parts: Mapping[str, Part] = {
        "alignment": Part(1, "integer"), "contexts": Part(2), "private": Part(1), "bn.affine": Part(2), "bn.statistics": Part(2),
        "logits.weight": Part(2), "logits.bias": Part(1),
    }  # fmt: skip
    smallest = "alignment"
    moves: Mapping[str, tuple[str, ...]] = {
        "contexts": ("contexts",), "private": ("private",), "bn": ("bn.affine",), "head": HEAD,
    }  # fmt: skip
    default_moves = full_moves = ("contexts", "private", "bn", "head")
    searched: frozenset[str] = frozenset()

    def read_spec(self, value: object) -> AlignmentSpec:
        """As ``Kind.read_spec``."""
        return AlignmentSpec.from_json(value)

    def check_part(self, name: str, array: Array) -> None:
        """As ``Kind.check_part``: raises ``SignatureError`` if a part of BN does not have two rows, or a variance is negative."""
        check_batch_norm(name, array)

    def average(self, name: str, arrays: Sequence[Array], share: Array) -> Array:
        """As ``Kind.average``. Raises ``SignatureError`` for different alignments: a context means nothing to another module."""
        if name == "alignment" or len({array.shape for array in arrays}) > 1:
            raise SignatureError(
                f"the signatures differ in {name}, so they have no average; average signatures of one task with the same alignment"
            )
        stacked = np.stack(arrays).astype(np.float64)
        mean: Array = pooled(stacked, share) if name == "bn.statistics" else np.tensordot(share, stacked, axes=1)
        return mean.astype(np.float32)

    def usage(self, parts: Mapping[str, Array]) -> Array:
        """Return which modules the locations use, as shares, 0 to 1, shape (16, 16).

        There are thousands of both: a row is a slice of the locations, and column j stands for the modules j, j + 16, j + 32, ….
        """
        alignment = parts["alignment"] % CELLS
        starts = np.arange(CELLS) * len(alignment) // CELLS
        rows = [
            alignment[start : max(end, start + 1)]
            for start, end in zip(starts, [*starts[1:], len(alignment)], strict=True)
        ]
        return np.stack([np.bincount(row, minlength=CELLS) / len(row) for row in rows])

    def distance(self, first: Mapping[str, Array], second: Mapping[str, Array]) -> float:
        """Return how much two signatures' use of modules differs, 0 to 1: see the module."""
        count = 1 + max(int(parts["alignment"].max()) for parts in (first, second))
        shares = [
            np.bincount(parts["alignment"], minlength=count) / len(parts["alignment"]) for parts in (first, second)
        ]
        return float(np.abs(shares[0] - shares[1]).sum() / 2)

    def describe(self, parts: Mapping[str, Array]) -> dict[str, Any]:
        """Return the number of locations, of those with a context, and of the modules that they use."""
        if "alignment" not in parts:
            return {}
        generic = {"generic_locations": len(parts["contexts"])} if "contexts" in parts else {}
        return {"locations": len(parts["alignment"]), **generic, "modules": len(np.unique(parts["alignment"]))}

    def changes(self, spec: AlignmentSpec, others: Sequence[Mapping[str, Array]]) -> Sequence[Change]:
        """As ``Kind.changes``: none."""
        return ()

    def network(self, spec: AlignmentSpec, templates: Mapping[str, Array]) -> AlignedNetwork:
        """As ``Kind.network``."""
        return AlignedNetwork(spec, templates)

    def learner(self, bundle: Bundle, *, threads: int) -> TaskLearners | None:
        """As ``Kind.learner``: none if no task has a backward graph."""
        from isoform.runtime.bodies.tasks import learner_of

        spec: Any = bundle.spec
        return learner_of(
            bundle, {task: network.body for task, network in spec.tasks.items()}, rates=RATES, threads=threads
        )


KIND = AlignmentKind()
"""Networks of any architectures, whose blocks are generated by the same hypermodules."""
