"""The kind ``module``: implementation of ``isoform.runtime.kind.Kind``.

With w the weights of signatures (Σ w = 1), m and v the statistics of BN:

    average     m = Σ w m_i, v = Σ w (v_i + m_i²) - m²; all other parts Σ w ·
    distance    mean over all numbers but the logits layer's of d / (1 + d), d the difference over the root mean square of both
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kind import HEAD, Change, Part
from isoform.runtime.kinds.module.network import ModuleNetwork
from isoform.runtime.kinds.module.spec import ModuleSpec
from isoform.runtime.learn.batch_norm import check_batch_norm, pooled

if TYPE_CHECKING:
    from isoform.runtime.bodies.learning import BodyLearner
    from isoform.runtime.formats.bundle import Bundle

__all__ = ["KIND", "RATES", "ModuleKind"]

RATES = {"mixture": 2e-3, "delta": 2e-3, "private": 2e-3, "bn.affine": 5e-3}
"""Adam's rate for each part."""


class ModuleKind:
    """A ``Kind`` for networks of any architecture, of which some weights differ between signatures."""

    name = "module"
    parts: Mapping[str, Part] = {
        "mixture": Part(1), "delta": Part(1), "private": Part(1), "bn.affine": Part(2), "bn.statistics": Part(2),
        "logits.weight": Part(2), "logits.bias": Part(1),
    }  # fmt: skip
    smallest = "logits.bias"
    moves: Mapping[str, tuple[str, ...]] = {
        "mixture": ("mixture",),
        "delta": ("delta",),
        "private": ("private",),
        "bn": ("bn.affine",),
        "head": HEAD,
    }
    default_moves = full_moves = ("mixture", "delta", "private", "bn", "head")
    searched: frozenset[str] = frozenset()

    def read_spec(self, value: object) -> ModuleSpec:
        """As ``Kind.read_spec``."""
        return ModuleSpec.from_json(value)

    def check_part(self, name: str, array: Array) -> None:
        """As ``Kind.check_part``: raises ``SignatureError`` if a part of BN does not have two rows, or a variance is negative."""
        check_batch_norm(name, array)

    def average(self, name: str, arrays: Sequence[Array], share: Array) -> Array:
        """As ``Kind.average``: variances by the law of total variance, the rest as numbers."""
        stacked = np.stack(arrays).astype(np.float64)
        mean: Array = pooled(stacked, share) if name == "bn.statistics" else np.tensordot(share, stacked, axes=1)
        return mean.astype(np.float32)

    def usage(self, parts: Mapping[str, Array]) -> Array:
        """Return |γ| of every channel, or what else is not shared, shape (rows, 1), cut off at 1."""
        rows = parts["bn.affine"][0] if "bn.affine" in parts else parts.get("mixture", parts["logits.bias"])
        return np.minimum(1, np.abs(rows.astype(np.float64)))[:, None]

    def distance(self, first: Mapping[str, Array], second: Mapping[str, Array]) -> float:
        """Return how different two signatures are, 0 to 1: see the module."""
        names = [name for name in self.parts if name in first and name not in HEAD] or [*HEAD]
        a, b = (np.concatenate([parts[name].ravel().astype(np.float64) for name in names]) for parts in (first, second))
        size = float(np.sqrt((np.mean(a**2) + np.mean(b**2)) / 2)) or 1.0
        difference = np.abs(a - b) / size
        return float((difference / (1 + difference)).mean())

    def describe(self, parts: Mapping[str, Array]) -> dict[str, Any]:
        """Return the number of numbers of each part but the logits layer's, with their root mean square."""
        return {
            name: {"numbers": array.size, "rms": round(float(np.sqrt(np.mean(array.astype(np.float64) ** 2))), 6)}
            for name, array in parts.items()
            if name not in HEAD
        }

    def changes(self, spec: ModuleSpec, others: Sequence[Mapping[str, Array]]) -> Sequence[Change]:
        """As ``Kind.changes``: none."""
        return ()

    def network(self, spec: ModuleSpec, templates: Mapping[str, Array]) -> ModuleNetwork:
        """As ``Kind.network``."""
        return ModuleNetwork(spec, templates)

    def learner(self, bundle: Bundle, *, threads: int) -> BodyLearner | None:
        """As ``Kind.learner``: none if the bundle has no graphs for learning."""
        from isoform.runtime.bodies.learning import BodyLearner

        graphs, network = bundle.require_compiled().graphs, bundle.network
        assert isinstance(network, ModuleNetwork)
        if "forward" not in graphs:
            return None
        return BodyLearner(bundle, network.spec.body, network, graphs, rates=RATES, threads=threads)


KIND = ModuleKind()
