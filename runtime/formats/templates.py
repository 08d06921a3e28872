"""``templates.safetensors``: the tensors that all signatures of a bundle share, and their digest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import numpy as np

from isoform.runtime.arrays import Array, digest_of
from isoform.runtime.errors import BundleError
from isoform.runtime.kind import Spec

__all__ = ["checked_templates", "template_digest"]


def template_digest(spec: Spec, tensors: Mapping[str, Array]) -> str:
    """Return the digest of templates: sha256 over the spec's canonical JSON and every tensor's name, shape and bytes.

    Args:
        spec: The network's sizes.
        tensors: ``spec.template_shapes``' names → arrays of those shapes, float32 or int8.
    """

    def parts() -> Iterable[bytes]:
        yield json.dumps(spec.to_json(), sort_keys=True, separators=(",", ":")).encode()
        for name in sorted(tensors):
            yield name.encode()
            yield json.dumps(list(tensors[name].shape)).encode()  # the bytes alone do not tell 2 × 6 from 3 × 4
            yield np.ascontiguousarray(tensors[name], dtype="i1" if name in spec.bytewise else "<f4").tobytes()

    return digest_of(parts())


def checked_templates(spec: Spec, arrays: Mapping[str, Array], *, where: str) -> dict[str, Array]:
    """Check the tensors of a bundle.

    Args:
        spec: The network's sizes.
        arrays: Name → array.
        where: Name in messages, such as the file's path.

    Returns:
        ``spec.template_shapes``' names → float32 or int8 array, C-contiguous, read-only. Copies.

    Raises:
        BundleError: If a tensor is missing or unknown, of the wrong shape or type, or not finite.
    """
    if set(arrays) != set(spec.template_shapes):
        raise BundleError(
            f"{where} does not hold the tensors that the network needs: {sorted(set(arrays) ^ set(spec.template_shapes))} are missing or unknown"
        )
    checked = {}
    for name, shape in spec.template_shapes.items():
        array, numbers = np.array(arrays[name], order="C"), np.dtype(np.int8 if name in spec.bytewise else np.float32)
        if array.shape != shape or array.dtype != numbers:
            raise BundleError(
                f"{where} holds {name} as {array.dtype} of shape {array.shape}, but {numbers} of shape {shape} was expected"
            )
        if not np.isfinite(array).all():
            raise BundleError(f"{where} holds a number that is not finite in {name}; train again")
        array.flags.writeable = False
        checked[name] = array
    return checked
