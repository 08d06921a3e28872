"""Measurement of a base signature's source statistics (``isoform.runtime.learn.source``), for the kind ``mixture``.

The Fisher information is estimated from 512 samples in batches of 16, with a softened mixture, because a discrete one has gradient 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.mixture.fold import fold
from isoform.runtime.kinds.mixture.learn.blocks import Blocks
from isoform.runtime.kinds.mixture.learn.chain import signature_gradient
from isoform.runtime.kinds.mixture.learn.network import FoldedNetwork
from isoform.runtime.kinds.mixture.learn.normalised import normalised_pass
from isoform.runtime.kinds.mixture.learn.soft import softened
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.content import least_structure
from isoform.runtime.learn.learner import BATCH, Moments
from isoform.runtime.learn.loss import cross_entropy
from isoform.runtime.learn.samples import spaced
from isoform.runtime.learn.source import Source, relative

__all__ = ["measure_source"]

SAMPLES = 2000
"""Maximum number of samples."""
FISHER_BATCHES = 32
CHUNK = 64  # samples per pass, which bounds memory
SMALLEST = 1e-3  # a channel that is constant over the samples would otherwise divide by 0
"""Minimum spread, in the base's units."""
CLASSES_LIMIT = 256  # bounds the file's size
"""Number of classes above which class means are not stored."""


def measure_source(
    spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array], x: Array, labels: Array, *, classes: int, run_on: Blocks
) -> Source:  # fmt: skip
    """Measure the source statistics of samples with a base signature.

    Args:
        spec: The network's sizes.
        tensors: The arrays of ``templates.safetensors``.
        parts: All parts of the signature, as ``Bundle.resolve`` returns them.
        x: Samples of all classes, shape (n, channels, height, width), float32; at most ``SAMPLES`` of them are used.
        labels: Class indices, shape (n,).
        classes: C.
        run_on: The result of ``open_blocks``.
    """
    x, labels = spaced(x, SAMPLES), spaced(labels, SAMPLES)
    variance = parts["bn.statistics"][1].astype(np.float32)
    rows = np.empty((2, len(x), spec.bn_channels), dtype=np.float32)
    for start in range(0, len(x), CHUNK):

        def recorded(place: slice, moments: Moments, start: int = start) -> tuple[Array, Array]:
            rows[:, start : start + len(moments.means), place] = relative(moments, variance[place])
            return np.zeros_like(variance[place]), variance[place]  # as given: this pass only measures

        normalised_pass(spec, tensors, parts, x[start : start + CHUNK], run_on=run_on, choose=recorded)
    spread = np.maximum(rows.std(axis=1), SMALLEST)
    present = np.unique(labels)
    table = np.zeros((classes if classes <= CLASSES_LIMIT else 0, 2, spec.bn_channels), dtype=np.float32)
    if len(table):
        for label in present:
            table[label] = rows[:, labels == label].mean(axis=1)
        # classes without samples stay 0, which ``Source`` reads as unknown
        table[present] -= table[present].mean(axis=0)
    fisher = _fisher(spec, tensors, parts, x, FoldedNetwork(spec, run_on))
    return Source(spread, table, fisher, least_structure(x, labels))


def _fisher(
    spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array], x: Array, network: FoldedNetwork
) -> dict[str, Array]:
    soft = {**parts, "mixture": softened(parts["mixture"])}
    weights = fold(spec, tensors, soft)
    found: dict[str, Array] = {}
    # strided, because neighbours may be of one class
    batches = [x[start::FISHER_BATCHES][:BATCH] for start in range(min(FISHER_BATCHES, len(x)))]
    for batch in batches:
        logits, kept = network.forward(weights, batch)
        # the predicted class, as in EATA, not the label
        g = cross_entropy(logits, logits.argmax(axis=1))[1]
        gradient = signature_gradient(spec, tensors, soft, network.backward(weights, kept, g))
        for name in ("mixture", "bn.affine"):
            # n (mean of n gradients)² estimates the mean square of independent, centred ones: one backward pass per batch
            found[name] = found.get(name, 0) + len(batch) * gradient[name] ** 2 / len(batches)
    return {name: array.astype(np.float32) for name, array in found.items()}
