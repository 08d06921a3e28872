"""The kind ``mixture``: implementation of ``isoform.runtime.kind.Kind``. Source: Compositional Models, section 3.

With ξ the mixture weights, m and v the BN statistics, w the weights of signatures (Σ w = 1), and complete signatures:

    average      ξ = Σ w ξ_i        m = Σ w m_i,  v = Σ w (v_i + m_i²) - m²        γ, β, logits layer: Σ w ·
    delta, bn.coefficients        Σ w ·, rounded
    distance     mean over layers of ½ Σ_k |ξ_a - ξ_b|: the total variation, a metric on mixtures

Mixtures are averaged as probabilities, because logits have an arbitrary constant, and those of a discrete layer are 0 and -10,000. A
template that no signature uses stays unused, and a layer in which all use the same template stays discrete. Variances follow the law
of total variance: the average has the statistics of all users' samples together. Source of the identities: standard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoform.runtime.arrays import Array, softmax
from isoform.runtime.errors import SignatureError
from isoform.runtime.kind import HEAD, WHOLE, Change, Part
from isoform.runtime.kinds.mixture.directions import STEP, mixing, template_sequence
from isoform.runtime.kinds.mixture.discrete import DISCRETE_GAP, xi_of
from isoform.runtime.kinds.mixture.network import MixtureNetwork
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.batch_norm import check_batch_norm, pooled

if TYPE_CHECKING:  # imported on first use, so that a process that only predicts starts faster
    from isoform.runtime.formats.bundle import Bundle
    from isoform.runtime.kinds.mixture.learn.learner import MixtureLearner

__all__ = ["KIND", "MixtureKind"]


class MixtureKind:
    """A ``Kind`` in which every layer is a mixture of template blocks, and BN is specific to the task."""

    name = "mixture"
    parts: Mapping[str, Part] = {
        "mixture": Part(2), "delta": Part(2, "integer"), "bn.coefficients": Part(1, "integer"), "bn.affine": Part(2),
        "bn.statistics": Part(2), "logits.weight": Part(2), "logits.bias": Part(1),
    }  # fmt: skip
    smallest = "mixture"
    # without bn.statistics, which are estimated from samples: no gradient flows to them
    moves: Mapping[str, tuple[str, ...]] = {
        "mixture": ("mixture",), "delta": ("delta",), "coefficients": ("bn.coefficients",), "bn": ("bn.affine",), "head": HEAD,
    }  # fmt: skip
    default_moves, full_moves = ("delta", "coefficients"), ("mixture", "bn", "head")
    searched: frozenset[str] = frozenset()

    def read_spec(self, value: object) -> NetworkSpec:
        """As ``Kind.read_spec``."""
        return NetworkSpec.from_json(value)

    def check_part(self, name: str, array: Array) -> None:
        """As ``Kind.check_part``: raises ``SignatureError`` if a BN part does not have two rows, a variance is negative, or a whole number
        is out of range.
        """
        # not by abs(): that of int64's smallest is negative
        if self.parts[name].numbers == "integer" and not -WHOLE <= array.min() <= array.max() <= WHOLE:
            raise SignatureError(
                f"a signature's {name} has numbers from {array.min()} to {array.max()}, but whole numbers from -{WHOLE} to {WHOLE} were expected"
            )
        check_batch_norm(name, array)

    def average(self, name: str, arrays: Sequence[Array], share: Array) -> Array:
        """As ``Kind.average``: mixtures as probabilities, variances by the law of total variance, the rest as numbers; whole ones rounded."""
        stacked = np.stack(arrays).astype(np.float64)
        if name == "mixture":
            xi = np.tensordot(share, softmax(stacked), axes=1)
            # log 0 = -inf, which the maximum below replaces by the logit of a discrete layer
            with np.errstate(divide="ignore"):
                logits = np.log(xi)
            result: Array = np.maximum(logits - logits.max(axis=1, keepdims=True), -DISCRETE_GAP)
            return result.astype(np.float32)
        if name == "bn.statistics":
            return pooled(stacked, share).astype(np.float32)
        mean: Array = np.tensordot(share, stacked, axes=1)
        if self.parts[name].numbers == "integer":
            return np.rint(mean).astype(np.int64)
        return mean.astype(np.float32)

    def usage(self, parts: Mapping[str, Array]) -> Array:
        """Return ξ with what ``delta`` adds to it, cut off at 0 and 1, shape (L, K); without a ``delta`` rows sum to 1."""
        return np.clip(mixing(parts)[:, : parts["mixture"].shape[1]], 0, 1)

    def distance(self, first: Mapping[str, Array], second: Mapping[str, Array]) -> float:
        """Return the mean over layers of ½ Σ_k |ξ_a - ξ_b|, the total variation: 0 for equal mixtures, 1 if no layer shares a template.

        What ``delta`` adds counts like ξ, and a layer counts at most 1.
        """
        a, b = mixing(first), mixing(second)
        width = max(a.shape[1], b.shape[1])
        a, b = (np.pad(weights, ((0, 0), (0, width - weights.shape[1]))) for weights in (a, b))
        return float(np.minimum(1, np.abs(a - b).sum(axis=1) / 2).mean())

    def describe(self, parts: Mapping[str, Array]) -> dict[str, Any]:
        """Return ξ, rounded, and the template sequence (None for a layer that is mixed, or that ``delta`` changes), if there is a mixture; and how many
        coefficients δ and z there are, with their root mean square and the largest, if they are not 0.
        """
        moved = {}
        for name in ("delta", "bn.coefficients"):
            if name in parts and parts[name].any():
                values = STEP * parts[name]
                size, most = float(np.sqrt(np.mean(values**2))), float(np.abs(values).max())
                moved[name] = {"numbers": values.size, "rms": round(size, 4), "largest": round(most, 4)}
        if "mixture" not in parts:
            return moved
        xi = xi_of(parts)
        return {
            **moved,
            "sequence": template_sequence(parts),
            "mean_max_xi": round(float(xi.max(axis=1).mean()), 6),
            "xi": np.round(xi, 4).tolist(),
        }

    def changes(self, spec: NetworkSpec, others: Sequence[Mapping[str, Array]]) -> Sequence[Change]:
        """As ``Kind.changes``: none, every part has a gradient or is estimated."""
        return ()

    def network(self, spec: NetworkSpec, templates: Mapping[str, Array]) -> MixtureNetwork:
        """As ``Kind.network``."""
        return MixtureNetwork(spec, templates)

    def learner(self, bundle: Bundle, *, threads: int) -> MixtureLearner:
        """As ``Kind.learner``."""
        from isoform.runtime.kinds.mixture.learn.learner import MixtureLearner

        return MixtureLearner(bundle, bundle.require_compiled().training(), threads=threads)


KIND = MixtureKind()
