"""Arithmetic of signatures: average, interpolation, distance, nearest neighbours.

    average      the weighted mean, part by part, as defined by the bundle's kind (``Kind.average``)
    interpolate  average of a and b with weights 1 - t and t
    distance     0 if two differ in BN and logits layer only, 1 if they share no template (``Kind.distance``)

A part that is equal in all signatures is returned unchanged, bit for bit. Source of the identities: standard.
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
    """Return the weighted mean of signatures.

    Args:
        bundle: The bundle that they were made for.
        signatures: At least one. If any has its own logits layer, or the bases differ, all must have the same classes, in any order.
        weights: One per signature, not negative, not all 0; only their proportions count. None for equal weights.

    Returns:
        A signature of the first one's task, float32. If all inherit from one base, it holds the parts that any of them holds, and the
        logits layer if their classes are in different orders; else all parts. Parts equal to the inherited ones are left out.

    Raises:
        SignatureError: If one does not fit the bundle, or their classes differ.
        UsageError: If there are no signatures, or the weights are invalid.
    """
    share = _shares(weights, len(signatures))
    first, resolved = signatures[0], [bundle.resolve(signature).parts for signature in signatures]
    bases = {_base_of(bundle, signature) for signature in signatures}
    common = bases.pop() if len(bases) == 1 else None
    held = {name for signature in signatures for name in signature.parts} if common else set(resolved[0])
    if common in {
        signature.digest for signature in signatures
    }:  # the base is one of them and holds every part: only what the others hold can differ
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
    """Interpolate linearly between a (t = 0) and b (t = 1); otherwise as ``average``."""
    if not 0 <= t <= 1:
        raise UsageError(f"t is {t!r}, but 0 (the first signature) to 1 (the second) was expected")
    return average(bundle, [a, b], weights=[1 - t, t])


def distance(bundle: Bundle, a: Signature, b: Signature) -> float:
    """Return the distance of two signatures, 0 to 1. Raises ``SignatureError`` if one does not fit the bundle."""
    return bundle.kind.distance(bundle.resolve(a).parts, bundle.resolve(b).parts)


def nearest(
    bundle: Bundle, signature: Signature, candidates: Mapping[str, Signature], *, count: int = 1
) -> list[tuple[str, float]]:
    """Return the candidates nearest to a signature.

    Args:
        bundle: The bundle that all were made for.
        signature: The signature to search for.
        candidates: Name → signature.
        count: Maximum number of results.

    Returns:
        Names and distances, the nearest first; ties in the order given.

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
        raise UsageError("there are no signatures to average; give at least one")
    share = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if share.shape != (count,) or not np.isfinite(share).all() or share.min() < 0 or not 0 < share.max() <= 1e300:
        raise UsageError(f"weights are {weights!r}, but {count} numbers from 0, not all 0, were expected")
    result: Array = share / share.max()  # first, so that the sum of large weights does not overflow
    result /= result.sum()
    return result


def _base_of(bundle: Bundle, signature: Signature) -> str | None:
    """Return the digest of the base that a signature inherits from; its own if it is a base, None if it is complete."""
    return signature.digest if signature.digest in bundle.bases() else signature.base


def _in_order(array: Array, labels: tuple[str, ...], wanted: tuple[str, ...]) -> Array:
    """Reorder the rows of a logits layer to another order of classes."""
    labels = tuple(as_known(labels, wanted))
    if labels == wanted:
        return array
    if set(labels) != set(wanted):
        raise SignatureError(
            f"the signatures have different classes, {', '.join(wanted)} and {', '.join(labels)}, so their logits layers have no average"
        )
    return array[[labels.index(name) for name in wanted]]


def _average_part(kind: Kind, name: str, arrays: Sequence[Array], share: Array) -> Array:
    # a signature with weight 0 must not count; the mean of equal floats can differ from them in the last bit
    used = [array for array, weight in zip(arrays, share, strict=True) if weight > 0]
    if all(np.array_equal(array, used[0]) for array in used):
        return used[0]
    return kind.average(name, arrays, share)
