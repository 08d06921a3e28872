"""Answers of a network in another form, or on another engine, beside those of the one it was made from."""

from __future__ import annotations

import dataclasses

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import CompileError

__all__ = ["Comparison", "compare"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs."""

    samples: int
    gap: float
    """Largest difference of logits, relative to the largest logit or 1."""
    agreement: float
    """Share of samples for which both say the same class, 0 to 1."""
    top1_before: float | None
    """Accuracy of the network that it was made from, 0 to 1; None without labels."""
    top1_after: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return the fields."""
        return dict(vars(self))

    def check_gap(self, limit: float, what: str, whom: str) -> None:
        """Raise ``CompileError`` if logits differ by more than a limit; ``what`` and ``whom`` name both for the message."""
        if not self.gap <= limit:  # "not <=": NaN has to fail
            raise CompileError(
                f"{what} differs from {whom} by {self.gap:.0e} of the largest logit, but at most {limit:g} was expected; "
                "nothing was written, please report this"
            )

    def check_drop(self, most: float, what: str, remedy: str) -> None:
        """Raise ``CompileError`` if more is lost than ``most`` points of accuracy, or percent of equal answers without labels.

        Args:
            most: The limit, in percent.
            what: Subject of the message.
            remedy: What to do.
        """
        if self.top1_before is None or self.top1_after is None:
            lost, said = 100 * (1 - self.agreement), "changes the class of {:.2f} percent of the samples"
        else:
            lost, said = 100 * (self.top1_before - self.top1_after), "costs {:.2f} points of accuracy"
        if not lost <= most:
            raise CompileError(
                f"{what} {said.format(lost)}, but at most {most:g} were allowed; nothing was written: {remedy}"
            )


def compare(found: Array, expected: Array, labels: Array | None) -> Comparison:
    """Compare logits.

    Args:
        found: Shape (n, classes), n at least 1.
        expected: Those of the network that it was made from, the same shape.
        labels: Index of the right class of each sample, shape (n,); None if they are not known.
    """
    # argmax names a class even for NaN, which may be the right one by chance
    finite = np.isfinite(found).all(axis=1)
    before, after = expected.argmax(axis=1), np.where(finite, found.argmax(axis=1), -1)
    difference = np.abs(found.astype(np.float64) - expected).max(initial=0)
    return Comparison(
        samples=len(found), gap=float(difference) / max(1.0, float(np.abs(expected).max(initial=0))), agreement=float(np.mean(before == after)),
        top1_before=None if labels is None else float(np.mean(before == labels)),
        top1_after=None if labels is None else float(np.mean(after == labels)),
    )  # fmt: skip
