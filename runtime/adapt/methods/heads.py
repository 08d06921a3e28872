"""Methods on the logits layer only, T3A and LAME: they need embeddings, but no gradients or BN statistics.

T3A keeps, for every class, the normalised embeddings predicted as that class with the lowest entropy, and the logits layer's own row:

    S_c ← S_c ∪ {e / ‖e‖: argmax p = c},  at most M, the lowest H(p) stay;       new row of class c = mean of S_c, scaled to unit length

LAME changes no parameters: it corrects the predictions of a batch jointly, so that similar samples get similar predictions, for any
class distribution. With p the predictions, and k_ij = exp(-‖eᵢ - eⱼ‖² / 2σ²) of normalised embeddings, σ the mean distance to the
5th nearest neighbour:

    zᵢ ← softmax(log pᵢ + Σ_j k_ij zⱼ),     until convergence, at most 100 times

Sources: Iwasawa and Matsuo 2021, "Test-time classifier adjustment module", section 3; Boudiaf et al. 2022, "LAME", equations 7 to 9.
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.adapt.losses import entropies
from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.arrays import Array, softmax
from isoform.runtime.errors import UsageError
from isoform.runtime.learn.learner import Point

__all__ = ["Lame", "T3a"]

NEIGHBOURS = 5
ROUNDS = 100
STILL = 1e-8


def _unit(rows: Array) -> Array:
    result: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return result


class T3a(Method):
    """A logits layer of the most certain embeddings of each class.

    ``supports`` is the maximum number per class.
    """

    moves = ("logits.weight", "logits.bias")

    def __init__(self, context: Context, supports: int = 20) -> None:
        super().__init__(context)
        if not isinstance(supports, int) or not 1 <= supports <= 10_000:
            raise UsageError(f"supports is {supports!r}, but a whole number from 1 to 10000 was expected")
        self._supports = supports
        self.reset(context.start)

    def reset(self, point: Point) -> None:
        """Set the point, and forget the stream."""
        self.point = point
        weight = point.parts["logits.weight"].astype(np.float64)
        # the paper's rows have unit length, which would change how certain predictions are
        self._scale = float(np.linalg.norm(weight, axis=1).mean())
        self._rows = [_unit(weight[label : label + 1]) for label in range(len(weight))]
        self._entropy = [entropies(softmax(rows @ weight.T)) for rows in self._rows]

    def observe(self, x: Array) -> None:
        """Add the samples to the supports, and update the logits layer."""
        embeddings = self.context.learner.embeddings(self.context.start, x).astype(np.float64)
        start = self.context.start.parts
        p = softmax(embeddings @ start["logits.weight"].T + start["logits.bias"])
        found, unsure, rows = p.argmax(axis=1), entropies(p), _unit(embeddings)
        for label in np.unique(found):
            mine = found == label
            entropy = np.concatenate([self._entropy[label], unsure[mine]])
            best = np.argsort(entropy, kind="stable")[: self._supports]
            self._rows[label] = np.concatenate([self._rows[label], rows[mine]])[best]
            self._entropy[label] = entropy[best]
        centres = _unit(np.stack([rows.mean(axis=0) for rows in self._rows]))
        self.point = self.point.with_parts(
            {"logits.weight": self._scale * centres, "logits.bias": np.zeros(len(centres))}
        )


class Lame(Method):
    """Predictions corrected within a batch; the signature stays."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)

    def reset(self, point: Point) -> None:
        """Set the point."""
        self.point = point

    def outputs(self, x: Array, logits: Array) -> Array:
        """Return the logarithms of the corrected predictions; for fewer than three samples, the logits."""
        if len(x) < 3:
            return logits
        rows = _unit(self.context.learner.embeddings(self.point, x).astype(np.float64))
        # ‖a - b‖² of unit vectors; rounding can make it negative
        squares = np.maximum(2 - 2 * rows @ rows.T, 0)
        place = min(NEIGHBOURS, len(x)) - 1  # a sample counts as its own nearest neighbour
        width = float(np.sqrt(np.partition(squares, place, axis=1)[:, place]).mean())
        kernel = np.exp(-squares / (2 * max(width, 1e-6) ** 2))
        p = np.log(np.maximum(softmax(logits), 1e-30))
        z = softmax(p)
        for _ in range(ROUNDS):
            new = softmax(p + kernel @ z)
            gap = float(np.abs(new - z).max())
            z = new
            if gap < STILL:
                break
        return np.log(np.maximum(z, 1e-30)).astype(np.float32)  # probabilities, as logits
