"""Arithmetic of signatures: what lies between users, how far they are apart, who is nearest.

    average      the weighted mean, part by part, as the kind of the bundle says (``Kind.average``)
    interpolate  average of a and b with weights 1 - t and t
    distance     0 where two are the same network but for BN and logits layer, 1 where nothing is shared (``Kind.distance``)

Where all are equal in a part, the average has that very part, bit for bit. Source of the identities: standard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import SignatureError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.inheritance import reduced
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD, Kind
from isoform.runtime.samples.names import as_known

__all__ = ["average", "distance", "interpolate", "nearest"]


def average(bundle: Bundle, signatures: Sequence[Signature], *, weights: Sequence[float] | None = None) -> Signature:
    """The weighted mean of signatures.

    Args:
        bundle: What they were made for.
        signatures: One at least. Where they have a logits layer of their own, or different bases, all must have the same classes; in
            another order is fine.
        weights: One for each, not negative, not all 0; only their proportions count. None for equal ones.

    Returns:
        A signature of the first one's task, float32. If all inherit from one base, it holds the parts that any of them holds, and the
        logits layer where they have their classes in another order; else all five. A part that it would inherit as it is, is left out.

    Raises:
        SignatureError: If one does not fit the bundle, or their classes differ.
        UsageError: If there is none, or the weights make no sense.
    """
    share = _shares(weights, len(signatures))
    first, resolved = signatures[0], [bundle.resolve(signature).parts for signature in signatures]
    bases = {_base_of(bundle, signature) for signature in signatures}
    common = bases.pop() if len(bases) == 1 else None
    held = {name for signature in signatures for name in signature.parts} if common else set(resolved[0])
    if common in {
        signature.digest for signature in signatures
    }:  # the base itself holds all: what the others hold counts
        held = {name for s in signatures if s.digest != common for name in s.parts} or {bundle.kind.smallest}
    labels = bundle.labels(first)
    if any(bundle.labels(signature) != labels for signature in signatures):
        held |= set(HEAD)
    parts = {}
    for name in resolved[0]:
        if name in held:
            arrays = [parts_of[name] for parts_of in resolved]
            if name.startswith("logits."):
                arrays = [_in_order(a, bundle.labels(s), labels) for a, s in zip(arrays, signatures, strict=True)]
            parts[name] = _average_part(bundle.kind, name, arrays, share)
    found = Signature(
        parts=parts, template=bundle.digest, task=first.task, base=common, parent=first.digest, kind=bundle.spec.kind,
        labels=labels if "logits.weight" in parts else None if first.digest == common else first.labels,
    )  # fmt: skip
    return reduced(bundle, found)


def interpolate(bundle: Bundle, a: Signature, b: Signature, t: float) -> Signature:
    """What lies at t between a (0) and b (1); otherwise as ``average``."""
    if not 0 <= t <= 1:
        raise UsageError(f"t is {t!r}, but 0 (the first signature) to 1 (the second) was expected")
    return average(bundle, [a, b], weights=[1 - t, t])


def distance(bundle: Bundle, a: Signature, b: Signature) -> float:
    """How far signatures are apart, 0 to 1; ``SignatureError`` if one does not fit the bundle."""
    return bundle.kind.distance(bundle.resolve(a).parts, bundle.resolve(b).parts)


def nearest(
    bundle: Bundle, signature: Signature, candidates: Mapping[str, Signature], *, count: int = 1
) -> list[tuple[str, float]]:
    """The candidates that are nearest.

    Args:
        bundle: What all were made for.
        signature: Whose neighbours are wanted.
        candidates: Name → signature.
        count: How many at most.

    Returns:
        Names and distances, the nearest first; equal ones in the order given.

    Raises:
        SignatureError: If one does not fit the bundle.
        UsageError: If ``count`` is less than 1.
    """
    if not isinstance(count, int) or count < 1:
        raise UsageError(f"count is {count!r}, but a whole number from 1 was expected")
    found = [(name, distance(bundle, signature, candidate)) for name, candidate in candidates.items()]
    return sorted(found, key=lambda entry: entry[1])[:count]


def _shares(weights: Sequence[float] | None, count: int) -> Array:
    if not count:
        raise UsageError("there are no signatures to average; give one at least")
    share = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if share.shape != (count,) or not np.isfinite(share).all() or share.min() < 0 or not 0 < share.max() <= 1e300:
        raise UsageError(f"weights are {weights!r}, but {count} numbers from 0 on, not all 0, were expected")
    result: Array = share / share.max()
    result /= result.sum()
    return result


def _base_of(bundle: Bundle, signature: Signature) -> str | None:
    """Digest of the base that a signature inherits from, its own if it is one; None if it is complete by itself."""
    return signature.digest if signature.digest in bundle.bases() else signature.base


def _in_order(array: Array, labels: tuple[str, ...], wanted: tuple[str, ...]) -> Array:
    """Rows of a logits layer in another order of classes."""
    labels = tuple(as_known(labels, wanted))
    if labels == wanted:
        return array
    if set(labels) != set(wanted):
        raise SignatureError(
            f"the signatures have different classes, {', '.join(wanted)} and {', '.join(labels)}, so their logits layers have no average"
        )
    return array[[labels.index(name) for name in wanted]]


def _average_part(kind: Kind, name: str, arrays: Sequence[Array], share: Array) -> Array:
    used = [array for array, weight in zip(arrays, share, strict=True) if weight > 0]
    if all(np.array_equal(array, used[0]) for array in used):
        return used[0]
    return kind.average(name, arrays, share)
