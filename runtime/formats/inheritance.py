"""Derivation of signatures from others, without parts that they can inherit.

A signature inherits from a base of its task, never from another user's signature. So a signature derived from a base refers to that
base and stores what has changed; one derived from a user's signature also stores that one's parts, and refers to the same base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD

__all__ = ["derived", "reduced"]


def derived(
    bundle: Bundle,
    start: Signature,
    parts: Mapping[str, Array],
    *,
    labels: Sequence[str] | None = None,
    parent: str | None = None,
) -> Signature:
    """Derive a signature from a start by replacing some of its parts.

    Args:
        bundle: The bundle that the start was made for.
        start: A base signature, or a user's signature.
        parts: The new parts; a part equal to the inherited one is not stored.
        labels: Class names of a new logits layer; None to keep the start's.
        parent: Digest of the signature that it was derived from; None for the start's.

    Returns:
        A signature in float32, whatever the start's precision, so that the returned values are the ones that were scored.

    Raises:
        SignatureError: If a number is not finite, or the start does not fit the bundle.
    """
    of_bundle = start.digest in bundle.bases()
    whole = {**({} if of_bundle else start.parts), **parts}
    names = None if of_bundle else start.labels
    if "logits.weight" in whole:
        names = tuple(labels) if labels is not None else bundle.labels(start)
    made = start.replace(
        parts=whole, base=start.digest if of_bundle else start.base, parent=parent or start.digest, labels=names,
        precision="float32",
    )  # fmt: skip
    return reduced(bundle, made)


def reduced(bundle: Bundle, signature: Signature) -> Signature:
    """Return an equivalent smaller signature, without the parts that it can inherit bit for bit.

    Args:
        bundle: The bundle that it was made for.
        signature: A user's signature; or a base signature, of which only the kind's smallest part is kept.

    Returns:
        A signature with at least one part and the same predictions; the given one if no part can be left out.

    Raises:
        SignatureError: If it does not fit the bundle.
    """
    resolved, smallest = bundle.resolve(signature).parts, bundle.kind.smallest
    least = HEAD if smallest in HEAD else (smallest,)  # a logits layer is stored whole or not at all
    if signature.digest in bundle.bases():
        return signature.keep(*least)
    base = bundle.base_of(signature)
    needed = bundle.spec.required_of(signature.task)
    required = {name: array for name, array in resolved.items() if name in needed}
    follows = {
        name: array for name, array in bundle.network.complete(signature.task, required).items() if name not in required
    }
    inherited = {**follows, **(base.parts if base is not None else {})}
    # by bytes, because == takes 0.0 for -0.0
    same = {name for name, array in inherited.items() if array.tobytes() == resolved[name].tobytes()}
    if not set(HEAD) <= same:  # weight and bias are stored together or not at all
        same -= set(HEAD)
    kept = {name: array for name, array in signature.parts.items() if name not in same}
    kept = kept or {name: resolved[name] for name in least}  # a file holds at least one part
    if kept.keys() == signature.parts.keys():
        return signature
    named = "logits.weight" in kept or base is None or signature.labels != base.labels
    return signature.replace(parts=kept, labels=signature.labels if named else None, parent=signature.parent)
