"""How a batch is cut: samples of one signature run together, in slices that bound the memory of a prediction.

ONNX Runtime keeps the largest amount of memory that a run ever took. So a batch runs in slices of as many samples as have
activations of ``SLICE_BYTES``; how many bytes a sample of that shape needs at once, the network's spec says (``Spec.sample_bytes``).

Smaller slices stay nearer to the processor: this is also the fastest size or near it. A sample's logits do not depend on the
slices, to the last bit, as long as none has a single sample, for which ONNX Runtime multiplies in another order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import Spec

__all__ = ["SLICE_BYTES", "in_groups", "in_slices", "one_each", "slice_samples", "slices"]

SLICE_BYTES = 4 << 20
"""Activations of one slice."""
FEWEST = 8
"""Samples of the smallest slice, however large they are: fewer take longer each, and of fewer than 3 a single one could be left."""


def slice_samples(spec: Spec, task: str, shape: tuple[int, ...]) -> int:
    """How many samples of that shape a network of that task runs at once."""
    return max(FEWEST, SLICE_BYTES // spec.sample_bytes(task, shape))


def in_slices(run: Callable[[Array], Array], x: Array, samples: int) -> Array:
    """Run a batch in slices of at most ``samples``, all of about the same size.

    Args:
        run: Samples → one row each.
        x: Samples, shape (n, …).
        samples: As ``slice_samples`` says.

    Returns:
        Shape (n, …). A fresh array.
    """
    if len(x) <= samples:
        return run(x)
    return np.concatenate([run(x[place]) for place in slices(len(x), samples)])


def slices(count: int, samples: int) -> list[slice]:
    """Slices of at most ``samples``, all of about the same size, that together are ``count`` samples in order."""
    number = max(1, -(-count // samples))
    edges = [count * index // number for index in range(number + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def in_groups(run: Callable[[Array, Signature], Array], x: Array, signatures: Sequence[Signature]) -> Array:
    """Run the samples of each signature together, and put the rows back in the order of the samples.

    Args:
        run: Samples and their signature → logits.
        x: Samples, shape (n, …).
        signatures: One per sample.

    Returns:
        Logits, shape (n, classes). A fresh array.

    Raises:
        UsageError: If not all signatures have as many classes.
    """
    groups: dict[str, list[int]] = {}
    for row, signature in enumerate(signatures):
        groups.setdefault(signature.digest, []).append(row)
    result = np.zeros((0, 0), dtype=np.float32)
    for rows in groups.values():
        part = run(x[rows], signatures[rows[0]])
        if not result.size:
            result = np.empty((len(x), part.shape[1]), dtype=np.float32)
        if part.shape[1] != result.shape[1]:
            raise UsageError(
                f"the signature of sample {rows[0]} has {part.shape[1]} classes, but that of sample 0 has {result.shape[1]}; predict them apart"
            )
        result[rows] = part
    return result


def one_each(value: object, samples: int) -> Sequence[Signature]:
    """One signature per sample; ``UsageError`` if it is anything else."""
    if not isinstance(value, list | tuple) or not all(isinstance(entry, Signature) for entry in value):
        raise UsageError(
            f"the signature is a {type(value).__name__}; give one from rt.signature(task) or Signature.load(path), or a list of them, one per sample"
        )
    if len(value) != samples:
        raise UsageError(f"there are {len(value)} signatures for {samples} samples, but one for each was expected")
    return value
