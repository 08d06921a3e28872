"""Unsupervised comparison of an adapted signature with its start, on the samples it was adapted to.

Statistics: BN assumes that a channel's values are normal with the stored mean m and variance v. With m̂ and v̂ those of the samples,
the divergence in nats per value is

    KL = mean over channels of ½ (ln(v / v̂) + (v̂ + (m̂ - m)²) / v - 1)

Statistics that were estimated from one outlier, or from one class of many, fit all samples worse than the start's.

Learned parts: with the same statistics, the number of predicted classes, exp(entropy of the histogram of predictions), is compared
between the adapted parts and the start's. Learning without labels can collapse to a few classes.

A stream with a single class passes both tests: its statistics fit it, and with them the start finds one class as well.
"""

from __future__ import annotations

import math

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.learn.learner import STATISTICS, Learner, Moments, Point, normalising
from isoform.runtime.learn.samples import spaced

__all__ = ["COLLAPSED", "worse"]

ROWS = 256
"""Maximum number of samples, evenly spaced."""
LOSS, TIMES = 0.01, 2.0
"""Statistics are worse if their KL exceeds the start's by both this difference and this factor."""
COLLAPSED = 0.5
"""Learned parts are worse if they find less than this share of the classes that the start finds."""


def worse(learner: Learner, start: Point, end: Point, x: Array) -> str | None:
    """Compare an adapted signature with its start.

    Args:
        learner: Runs the network.
        start: The start's parameters.
        end: The adapted signature's parameters.
        x: Samples with content, shape (n, channels, height, width), float32, n at least 1.

    Returns:
        What is worse, as a clause for a message; None if nothing is.
    """
    x = spaced(x, ROWS)
    same = {STATISTICS: end.parts[STATISTICS]} if learner.normalises(end.task) else {}
    if not all(np.array_equal(array, start.parts[name]) for name, array in same.items()):
        before, after = (_misfit(learner, point, x) for point in (start, start.with_parts(same)))
        if not after <= max(TIMES * before, before + LOSS):  # NaN is worse, too
            return f"its BN statistics fit the samples worse, with a divergence of {after:.2g} instead of {before:.2g} nats"
    found = [_classes(learner.logits(point, x)) for point in (start.with_parts(same), end)]
    if not found[1] >= COLLAPSED * found[0]:
        return f"it finds {found[1]:.1f} classes in the samples, where its start finds {found[0]:.1f}"
    return None


def _misfit(learner: Learner, point: Point, x: Array) -> float:
    """Return the KL of the point's statistics."""
    variance, lost = np.maximum(point.parts[STATISTICS][1].astype(np.float64), 1e-12), list[Array]()

    def given(place: slice, found: Moments) -> tuple[Array, Array]:
        v, mean = variance[place], found.mean
        own = np.maximum(found.square - mean**2, 1e-6 * v)  # a constant channel would diverge
        lost.append((np.log(v / own) + (own + mean**2) / v - 1) / 2)
        return np.zeros_like(v), v

    normalising(learner, point.task).normalised(point, x, given)
    return float(np.concatenate(lost).mean())


def _classes(logits: Array) -> float:
    """Return the effective number of predicted classes; 0 if a logit is not finite."""
    if not np.isfinite(logits).all():
        return 0.0
    share = np.bincount(logits.argmax(axis=1)) / len(logits)
    share = share[share > 0]
    return math.exp(-float(share @ np.log(share)))
