"""Measurement of a base signature's source statistics (``isoform.runtime.learn.source``), for any network with BN.

The Fisher information is estimated from 512 samples in batches of 16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.learn.content import least_structure
from isoform.runtime.learn.learner import BATCH, Choose, Moments
from isoform.runtime.learn.samples import spaced
from isoform.runtime.learn.source import Source, relative

__all__ = ["measured"]

SAMPLES = 2000
"""Maximum number of samples."""
FISHER_BATCHES = 32
CHUNK = 64  # samples per pass, which bounds memory
SMALLEST = 1e-3  # a channel that is constant over the samples would otherwise divide by 0
"""Minimum spread, in the base's units."""
CLASSES_LIMIT = 256  # bounds the file's size
"""Number of classes above which class means are not stored."""


def measured(
    x: Array, labels: Array, *, classes: int, variance: Array, normalised: Callable[[Array, Choose], object],
    gradient: Callable[[Array], Mapping[str, Array]],
) -> Source:  # fmt: skip
    """Measure the source statistics of samples with a base signature.

    Args:
        x: Samples of all classes, shape (n, …), float32; at most ``SAMPLES`` of them are used.
        labels: Class indices, shape (n,).
        classes: C.
        variance: The signature's variances of BN, shape (N,), float32.
        normalised: Runs samples with BN statistics that are chosen, as ``Normalising.normalised`` with the signature's point.
        gradient: Samples → part → gradient of their cross-entropy with the classes that are predicted.
    """
    x, labels = spaced(x, SAMPLES), spaced(labels, SAMPLES)
    rows = np.empty((2, len(x), len(variance)), dtype=np.float32)
    for start in range(0, len(x), CHUNK):

        def recorded(place: slice, moments: Moments, start: int = start) -> tuple[Array, Array]:
            rows[:, start : start + len(moments.means), place] = relative(moments, variance[place])
            return np.zeros_like(variance[place]), variance[place]  # as given: this pass only measures

        normalised(x[start : start + CHUNK], recorded)
    spread = np.maximum(rows.std(axis=1), SMALLEST)
    present = np.unique(labels)
    table = np.zeros((classes if classes <= CLASSES_LIMIT else 0, 2, len(variance)), dtype=np.float32)
    if len(table):
        for label in present:
            table[label] = rows[:, labels == label].mean(axis=1)
        # classes without samples stay 0, which ``Source`` reads as unknown
        table[present] -= table[present].mean(axis=0)
    fisher: dict[str, Array] = {}
    # strided, because neighbours may be of one class
    batches = [x[start::FISHER_BATCHES][:BATCH] for start in range(min(FISHER_BATCHES, len(x)))]
    for batch in batches:
        for name, value in gradient(batch).items():
            # n (mean of n gradients)² estimates the mean square of independent, centred ones: one backward pass per batch
            fisher[name] = fisher.get(name, 0) + len(batch) * value**2 / len(batches)
    found = {name: array.astype(np.float32) for name, array in fisher.items()}
    return Source(spread, table, found, least_structure(x, labels))
