"""How good a signature is on labelled samples: accuracy by class and by group, confusions, calibration.

calibration error   Σ_b n_b/n · |accuracy_b - confidence_b| over 15 equal bins of confidence, the largest probability
                    (expected calibration error; Guo et al., On Calibration of Modern Neural Networks, 2017, equation 3)
log loss            mean of -log p of the right class, in nats
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array, softmax

__all__ = ["Evaluation", "evaluated"]

BINS = 15
FLOOR = 1e-12
"""Smallest probability of the right class in the log loss."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of one signature."""

    samples: int
    accuracy: float
    """Share of samples that are right, 0 to 1."""
    class_mean: float
    """Mean over the classes that occur of the share that is right (balanced accuracy), 0 to 1."""
    calibration_error: float
    """0 to 1."""
    log_loss: float
    confusion: Array
    """Number of samples, shape (classes, classes): the row is the right class, the column the answer."""
    labels: tuple[str, ...]
    """Class names."""
    groups: dict[str, tuple[int, float]]
    """Group → number of samples, and accuracy; empty if groups are not known."""

    def classes(self) -> dict[str, dict[str, Any]]:
        """Return for each class that occurs its samples, the share that is right (recall), the share of its answers that are right (precision,
        None if it is never the answer), and the class that it is taken for most often with the number of samples, if there is one.
        """
        told = {}
        for place, name in enumerate(self.labels):
            row = self.confusion[place]
            if not row.sum():
                continue
            wrong = row.copy()
            wrong[place] = 0
            answers = int(self.confusion[:, place].sum())
            told[name] = {
                "samples": int(row.sum()), "recall": float(row[place] / row.sum()),
                "precision": float(row[place] / answers) if answers else None,
                "taken_for": [self.labels[int(wrong.argmax())], int(wrong.max())] if wrong.any() else None,
            }  # fmt: skip
        return told

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {
            "samples": self.samples, "accuracy": self.accuracy, "class_mean": self.class_mean, "calibration_error": self.calibration_error,
            "log_loss": self.log_loss, "classes": self.classes(), "labels": list(self.labels), "confusion": self.confusion.tolist(),
            "groups": {name: {"samples": count, "accuracy": right} for name, (count, right) in self.groups.items()},
        }  # fmt: skip


def evaluated(
    logits: Array, truth: Array, *, labels: tuple[str, ...], groups: Sequence[str] | None = None
) -> Evaluation:
    """Compute the figures.

    Args:
        logits: Shape (n, classes), n at least 1.
        truth: Index of the right class of each sample, shape (n,).
        labels: Class names.
        groups: Group of each sample; None if they are not known.
    """
    probabilities = softmax(logits)
    answers, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = answers == truth
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, (truth, answers), 1)
    counts = confusion.sum(axis=1)
    met = counts > 0
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    error = sum(
        abs(float(right[bins == number].sum() - confidence[bins == number].sum())) for number in np.unique(bins)
    ) / len(truth)
    found: dict[str, list[bool]] = {}
    for group, one in zip(groups or (), right.tolist(), strict=groups is not None):
        found.setdefault(group, []).append(one)
    chosen = probabilities[np.arange(len(truth)), truth]
    return Evaluation(
        samples=len(truth), accuracy=float(right.mean()), class_mean=float((np.diag(confusion)[met] / counts[met]).mean()),
        calibration_error=float(error), log_loss=float(-np.log(np.maximum(chosen, FLOOR)).mean()), confusion=confusion, labels=labels,
        groups={name: (len(some), float(np.mean(some))) for name, some in found.items()},
    )  # fmt: skip
