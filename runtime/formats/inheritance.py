"""What a signature holds and what it inherits: signatures made from others, without a part that they would inherit anyway.

A signature inherits from a base of its task, never from another user's. So what is made from a base names that base and holds what has
moved; what is made from a user's own signature keeps the parts of that one, and names the same base.
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
    """The start's network with other numbers in some of its parts.

    Args:
        bundle: What the start was made for.
        start: A base signature, or a user's own.
        parts: The parts that may have moved; one that has not is inherited.
        labels: Names of the classes of a new logits layer; None to keep the start's.
        parent: Digest of the signature that it was made from; None for the start's.

    Returns:
        A signature in float32, whatever the start is stored in: the numbers that were scored are the numbers that are returned.

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
    """The same network in fewer bytes: without the parts that it would inherit bit for bit.

    Args:
        bundle: What it was made for.
        signature: A user's; or a base signature, of which the kind's smallest part is kept.

    Returns:
        A signature of at least one part that predicts the same; the given one where nothing can be left out.

    Raises:
        SignatureError: If it does not fit the bundle.
    """
    resolved, smallest = bundle.resolve(signature).parts, bundle.kind.smallest
    if signature.digest in bundle.bases():
        return signature.keep(smallest)
    base = bundle.base_of(signature)
    required = {name: array for name, array in resolved.items() if name in bundle.spec.required}
    follows = {
        name: array for name, array in bundle.network.complete(signature.task, required).items() if name not in required
    }
    inherited = {**follows, **(base.parts if base is not None else {})}
    same = {name for name, array in inherited.items() if array.tobytes() == resolved[name].tobytes()}
    if not set(HEAD) <= same:
        same -= set(HEAD)
    kept = {name: array for name, array in signature.parts.items() if name not in same}
    kept = kept or {smallest: resolved[smallest]}
    if kept.keys() == signature.parts.keys():
        return signature
    named = "logits.weight" in kept or base is None or signature.labels != base.labels
    return signature.replace(parts=kept, labels=signature.labels if named else None, parent=signature.parent)
