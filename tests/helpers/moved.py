"""What tests of coefficients share: every engine's answer to a user's signature, and gradients on random samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from isoform.compile.kinds.mixture.training import training_graphs
from isoform.runtime import Runtime
from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.fold import fold
from isoform.runtime.kinds.mixture.learn.blocks import open_blocks
from isoform.runtime.kinds.mixture.learn.chain import signature_gradient
from isoform.runtime.kinds.mixture.learn.network import FoldedNetwork
from isoform.runtime.learn.loss import cross_entropy


def engines_agree(path: Path, x: Array, user: Callable[[Runtime], tuple[Signature, Signature]]) -> None:
    """The plan, sessions and the numpy twin give a user the same logits, others than the base's, which do not move.

    ``user``: a runtime → a base and a user's signature.
    """
    answers = {}
    for engine in ("onnx", "sessions", "reference"):
        with Runtime.open(path, engine=engine) as runtime:
            base, mine = user(runtime)
            before = runtime.predict(x, base)
            answers[engine] = runtime.predict(x, mine)
            assert np.array_equal(runtime.predict(x, base), before)
    assert np.abs(answers["onnx"] - before).max() > 0.1
    for found in answers.values():
        np.testing.assert_allclose(found, answers["reference"], rtol=1e-4, atol=1e-4)


def gradients_of(bundle: Bundle, parts: Mapping[str, Array], *, own_affine: bool) -> tuple[Array, Array, Array, dict[str, Array]]:  # fmt: skip
    """Seven random samples, their labels, the device's logits of them, and its gradients of the mean cross-entropy."""
    spec, rng = bundle.spec, np.random.default_rng(0)
    x, labels = rng.uniform(0, 1, (7, *spec.input_shape)).astype(np.float32), rng.integers(0, 3, 7)
    network = FoldedNetwork(spec, open_blocks(spec, training_graphs(spec), threads=1))
    weights = fold(spec, bundle.tensors, parts)
    logits, kept = network.forward(weights, x)
    folded = network.backward(weights, kept, cross_entropy(logits, labels)[1])
    return x, labels, logits, signature_gradient(spec, bundle.tensors, parts, folded, own_affine=own_affine)
