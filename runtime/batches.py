"""Splitting of batches: samples with the same signature run together, in slices that bound the memory of a prediction.

ONNX Runtime's arena never shrinks: it keeps the peak memory of the largest run. So a batch runs in slices whose activations take
``SLICE_BYTES``; the network's spec gives the bytes per sample of a shape (``Spec.sample_bytes``).

Activations of small slices also stay in the processor's cache, so this size is the fastest or close to it. A sample's logits do not
depend on the slices, bit for bit, unless a slice has a single sample, for which ONNX Runtime multiplies in a different order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import Spec

__all__ = ["SLICE_BYTES", "different_classes", "in_groups", "in_slices", "one_each", "slice_samples", "slices"]

# eight threads with four bases hold 163 MB instead of 1,325 MB without slices (docs/log.md, 2026-11-25)
SLICE_BYTES = 4 << 20
"""Activation memory of one slice, in bytes."""
FEWEST = 8  # smaller slices take longer per sample, and below 3 a slice of a single sample could be left over
"""Minimum number of samples per slice, whatever their size."""


def slice_samples(spec: Spec, task: str, shape: tuple[int, ...]) -> int:
    """Return the number of samples of that shape per slice, for a network of that task."""
    return max(FEWEST, SLICE_BYTES // spec.sample_bytes(task, shape))


def in_slices(run: Callable[[Array], Array], x: Array, samples: int) -> Array:
    """Run a batch in slices of at most ``samples``, all of about the same size.

    Args:
        run: Maps samples to one row each.
        x: Samples, shape (n, …).
        samples: The result of ``slice_samples``.

    Returns:
        Shape (n, …). A fresh array.
    """
    if len(x) <= samples:
        return run(x)
    return np.concatenate([run(x[place]) for place in slices(len(x), samples)])


def slices(count: int, samples: int) -> list[slice]:
    """Divide ``count`` samples, in order, into slices of at most ``samples``, all of about the same size."""
    number = max(1, -(-count // samples))  # equal sizes, not full slices and a rest, which could be a single sample
    edges = [count * index // number for index in range(number + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def in_groups(run: Callable[[Array, Signature], Array], x: Array, signatures: Sequence[Signature]) -> Array:
    """Run the samples of each signature together; return the rows in the order of the samples.

    Args:
        run: Maps samples and their signature to logits.
        x: Samples, shape (n, …).
        signatures: One per sample.

    Returns:
        Logits, shape (n, classes). A fresh array.

    Raises:
        UsageError: If the signatures' numbers of classes differ.
    """
    groups: dict[str, list[int]] = {}  # by digest, not by object: the same file may have been loaded twice
    for row, signature in enumerate(signatures):
        groups.setdefault(signature.digest, []).append(row)
    result = np.zeros((0, 0), dtype=np.float32)
    for rows in groups.values():
        part = run(x[rows], signatures[rows[0]])
        # the number of classes is known only after the first run
        if not result.size:
            result = np.empty((len(x), part.shape[1]), dtype=np.float32)
        if part.shape[1] != result.shape[1]:
            raise different_classes(rows[0], part.shape[1], result.shape[1])
        result[rows] = part
    return result


def different_classes(row: int, count: int, first: int) -> UsageError:
    """Return the error for a sample whose signature has another number of classes than that of sample 0."""
    return UsageError(
        f"the signature of sample {row} has {count} classes, but that of sample 0 has {first}; predict them in separate calls"
    )


def one_each(value: object, samples: int) -> Sequence[Signature]:
    """Check a list of one signature per sample. Raises ``UsageError`` if it is anything else."""
    if not isinstance(value, list | tuple) or not all(isinstance(entry, Signature) for entry in value):
        raise UsageError(
            f"the signature is a {type(value).__name__}; give one from rt.signature(task) or Signature.load(path), or a list of them, one per sample"
        )
    if len(value) != samples:
        raise UsageError(f"there are {len(value)} signatures for {samples} samples, but one per sample was expected")
    return value
