"""The loop over batches of unlabelled samples, of ``Runtime.adapt`` and ``isoform adapt``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from isoform.runtime.adapt.adapter import Adapter
from isoform.runtime.adapt.history import Record
from isoform.runtime.arrays import Array

__all__ = ["Step", "adapt_batches"]


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One batch, predicted and adapted to."""

    rows: Array
    """Indices of its samples, shape (n,)."""
    logits: Array
    """Their logits, shape (n, classes), float32."""
    record: Record
    """The call's record: the digest of the signature after this batch, and the number of samples that it has seen."""


def adapt_batches(adapter: Adapter, x: Array, *, batch: int, seed: int | None) -> Iterator[Step]:
    """Call an adapter with all samples, batch by batch.

    If the loop is interrupted, the signature may be ahead of the last step that its caller has taken note of; ``Adapter.rollback``
    to that step's digest makes both agree again.

    Args:
        adapter: A new adapter, whose records count samples from 0.
        x: Samples, as ``Runtime.checked`` returns them.
        batch: Number of samples per batch; the last one may be smaller.
        seed: Seed of the order; None to keep the order, as of a stream.

    Yields:
        A step after every batch.

    Raises:
        InputError: If the logits overflow, as for ``Runtime.predict``.
        IsoformError: If an update cannot be written to the adapter's folder.
    """
    # entropy methods drift towards one class on a stream that is sorted by class, as files in folders are
    order = np.arange(len(x)) if seed is None else np.random.default_rng(seed).permutation(len(x))
    for first in range(0, len(x), batch):
        rows = order[first : first + batch]
        logits = adapter(x[rows])
        yield Step(rows, logits, adapter.last)
