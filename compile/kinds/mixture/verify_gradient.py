"""Verify the training graphs: on real samples, their gradients must equal torch autograd's.

The signature is the trained one with its mixture logits scaled down to at most 2, because the softmax of a one-hot mixture has no gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F

from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.mixture.fold import fold
from isoform.runtime.kinds.mixture.learn.blocks import Blocks
from isoform.runtime.kinds.mixture.learn.chain import signature_gradient
from isoform.runtime.kinds.mixture.learn.network import FoldedNetwork
from isoform.runtime.learn.loss import cross_entropy
from isoform.runtime.learn.samples import spaced
from isoform.train.data.samples import Loaded
from isoform.train.kinds.mixture.bundling import network_from_bundle
from isoform.train.kinds.mixture.network import IsometricNetwork

__all__ = ["gradient_gap"]

SAMPLES = 32
GROUP = 4
"""Samples per comparison. An input within rounding of an activation's kink can have one slope in float32 and the other in float64; one
such sample in 32 has moved a whole batch's gradient by 5e-4. The median over the groups ignores it; a wrong graph is wrong in all groups.
"""


def gradient_gap(bundle: Bundle, task: str, test: Loaded, blocks: Blocks) -> float:
    """Measure the largest difference between a part's gradient and torch autograd's in float64, relative to the part's largest gradient.

    The result is the median over a few batches.

    Args:
        bundle: Templates and trained signatures.
        task: Name of the task.
        test: Its test samples.
        blocks: As returned by ``open_blocks``: this machine's form of the training graphs, already checked against the plain one.

    Returns:
        The gap, or NaN if a gradient of any batch is not finite.
    """
    trained = bundle.signatures[task]
    mixture = trained.parts["mixture"]
    soft = trained.replace(parts={**trained.parts, "mixture": mixture * (2 / max(2.0, float(np.abs(mixture).max())))})
    x, labels = spaced(test.images, SAMPLES), spaced(test.labels, SAMPLES)
    spec, parts = bundle.network.spec, bundle.resolve(soft).parts
    weights, network = fold(spec, bundle.tensors, parts), FoldedNetwork(spec, blocks)
    # In float64, so that the reference adds no rounding of its own.
    model = network_from_bundle(bundle, {task: soft}).double()
    mixed = spec.affine == "mixed" and not model.own_affine

    gaps = []
    with _one_thread():
        for start in range(0, len(x), GROUP):
            rows = slice(start, start + GROUP)
            logits, kept = network.forward(weights, x[rows])
            folded = network.backward(weights, kept, cross_entropy(logits, labels[rows])[1])
            found = signature_gradient(spec, bundle.tensors, parts, folded, own_affine=not mixed)
            gaps.append(_largest_gap(found, _by_torch(model, x[rows], labels[rows]), mixed=mixed))
    return float(np.median(gaps))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: operators on four samples are so short that more threads only wait for each other, fifty times as long
    on a machine that others use.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _by_torch(model: IsometricNetwork, x: Array, labels: Array) -> dict[str, Array]:
    parameters = {
        "mixture": model.mixture,
        "bn.affine": model.bn_affine,
        "logits.weight": model.heads[0],
        "logits.bias": model.heads[1],
    }
    loss = F.cross_entropy(model(torch.from_numpy(x).double(), 0), torch.from_numpy(labels))
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return {name: gradient.numpy() for name, gradient in zip(parameters, gradients, strict=True)}


def _largest_gap(found: Mapping[str, Array], expected: Mapping[str, Array], *, mixed: bool) -> float:
    gaps = []
    for name, by_torch in expected.items():
        by_device = found[name].reshape(by_torch.shape)
        # The blocks' γ and β are mixed from the templates then, so torch's parameter has a gradient at the adapters only.
        if name == "bn.affine" and mixed:
            by_device = np.where(by_torch == 0, 0, by_device)
        # 1e-30: a gradient that is 0 everywhere must not divide by 0.
        gaps.append(float(np.abs(by_device - by_torch).max() / max(float(np.abs(by_torch).max()), 1e-30)))
    return float(np.max(gaps))  # not max(), which would pass over a NaN that is not the first
