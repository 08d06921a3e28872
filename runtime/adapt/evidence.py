"""Whether an adapted signature is worse than its start, by what its own samples say: no labels are needed.

Statistics: BN normalises as if a channel's values were normal with the stored mean m and variance v. With m̂ and v̂ those of the samples,

    KL = mean over channels of ½ (ln(v / v̂) + (v̂ + (m̂ - m)²) / v - 1)

is what this assumption loses, in nats per value. Statistics that came of one odd sample, or of one class out of many, describe all
samples worse than the start's did.

Learned parts: with the same statistics, the classes that are found, exp(entropy of the histogram of predictions), are counted with
the adapted parts and with the start's. A collapse to a few classes is what learning without labels can end in.

A stream of one class is neither: its statistics describe it, and the start finds one class with them as well.
"""

from __future__ import annotations

import math

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.learn.learner import STATISTICS, Learner, Moments, Point, normalising
from isoform.runtime.learn.samples import spaced

__all__ = ["COLLAPSED", "worse"]

ROWS = 256
"""At most so many samples are looked at, evenly spaced."""
LOSS, TIMES = 0.01, 2.0
"""Statistics are worse if their KL is greater than the start's by both; those of the samples themselves are nearly always better."""
COLLAPSED = 0.5
"""Learned parts that find less than this share of the classes are worse."""


def worse(learner: Learner, start: Point, end: Point, x: Array) -> str | None:
    """Compare an adapted signature with its start.

    Args:
        learner: Runs the network.
        start: The start's numbers.
        end: The adapted signature's.
        x: Samples with content, shape (n, channels, height, width), float32, n at least 1.

    Returns:
        What is worse, to be put into a message; None if nothing is.
    """
    x = spaced(x, ROWS)
    same = {STATISTICS: end.parts[STATISTICS]} if learner.normalises else {}
    if not all(np.array_equal(array, start.parts[name]) for name, array in same.items()):
        before, after = (_misfit(learner, point, x) for point in (start, start.with_parts(same)))
        if not after <= max(TIMES * before, before + LOSS):
            return f"its BN statistics describe the samples worse, by {after:.2g} instead of {before:.2g} nats"
    found = [_classes(learner.logits(point, x)) for point in (start.with_parts(same), end)]
    if not found[1] >= COLLAPSED * found[0]:
        return f"it finds {found[1]:.1f} classes in the samples, where its start finds {found[0]:.1f}"
    return None


def _misfit(learner: Learner, point: Point, x: Array) -> float:
    """KL of the point's statistics."""
    variance, lost = np.maximum(point.parts[STATISTICS][1].astype(np.float64), 1e-12), list[Array]()

    def given(place: slice, found: Moments) -> tuple[Array, Array]:
        v, mean = variance[place], found.mean
        own = np.maximum(found.square - mean**2, 1e-6 * v)
        lost.append((np.log(v / own) + (own + mean**2) / v - 1) / 2)
        return np.zeros_like(v), v

    normalising(learner).normalised(point, x, given)
    return float(np.concatenate(lost).mean())


def _classes(logits: Array) -> float:
    """Classes that are found, as if they were alike frequent; 0 if a logit is not finite."""
    if not np.isfinite(logits).all():
        return 0.0
    share = np.bincount(logits.argmax(axis=1)) / len(logits)
    share = share[share > 0]
    return math.exp(-float(share @ np.log(share)))
