"""Measurement of a base signature's source statistics (``isoform.runtime.learn.measure``), for the kind ``mixture``.

The Fisher information is that of a softened mixture, because a discrete one has gradient 0.
"""

from __future__ import annotations

from collections.abc import Mapping

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.mixture.fold import fold
from isoform.runtime.kinds.mixture.learn.blocks import Blocks
from isoform.runtime.kinds.mixture.learn.chain import signature_gradient
from isoform.runtime.kinds.mixture.learn.network import FoldedNetwork
from isoform.runtime.kinds.mixture.learn.normalised import normalised_pass
from isoform.runtime.kinds.mixture.learn.soft import softened
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.learner import Choose, Pass
from isoform.runtime.learn.loss import cross_entropy
from isoform.runtime.learn.measure import measured
from isoform.runtime.learn.source import Source

__all__ = ["measure_source"]


def measure_source(
    spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array], x: Array, labels: Array, *, classes: int, run_on: Blocks
) -> Source:  # fmt: skip
    """Measure the source statistics of samples with a base signature.

    Args:
        spec: The network's sizes.
        tensors: The arrays of ``templates.safetensors``.
        parts: All parts of the signature, as ``Bundle.resolve`` returns them.
        x: Samples of all classes, shape (n, channels, height, width), float32.
        labels: Class indices, shape (n,).
        classes: C.
        run_on: The result of ``open_blocks``.
    """
    network, soft = FoldedNetwork(spec, run_on), {**parts, "mixture": softened(parts["mixture"])}
    weights = fold(spec, tensors, soft)

    def normalised(some: Array, choose: Choose) -> Pass:
        return normalised_pass(spec, tensors, parts, some, run_on=run_on, choose=choose)

    def gradient(batch: Array) -> dict[str, Array]:
        logits, kept = network.forward(weights, batch)
        # the predicted class, as in EATA, not the label
        g = cross_entropy(logits, logits.argmax(axis=1))[1]
        found = signature_gradient(spec, tensors, soft, network.backward(weights, kept, g))
        return {name: found[name] for name in ("mixture", "bn.affine")}

    variance = parts["bn.statistics"][1].astype("float32")
    return measured(x, labels, classes=classes, variance=variance, normalised=normalised, gradient=gradient)
