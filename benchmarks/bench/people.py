"""Users of a bundle, at random."""

from __future__ import annotations

import numpy as np

from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.mixture.discrete import discrete_logits


def users(bundle: Bundle, count: int, kind: str, *, seed: int = 0) -> list[bytes]:
    """Signature files.

    Args:
        bundle: A bundle; its first task is their base.
        count: How many.
        kind: ``mixture``; ``discrete``, a sequence of templates; or ``bn``, a mixture with BN affine and statistics.
        seed: Of the numbers.
    """
    rng, spec, base = np.random.default_rng(seed), bundle.spec, bundle.base(next(iter(bundle.signatures)))
    files = []
    for _ in range(count):
        parts = {"mixture": rng.normal(size=(spec.layers, spec.templates))}
        if kind == "discrete":
            parts["mixture"] = discrete_logits(rng.integers(0, spec.templates, spec.layers), spec.templates)
        if kind == "bn":
            parts["bn.affine"] = rng.normal(1, 0.1, (2, spec.bn_channels))
            parts["bn.statistics"] = rng.uniform(0.5, 2, (2, spec.bn_channels))
        files.append(base.replace(parts=parts, base=base.digest, labels=None, created="2026-11-20T12:00:00Z").encode())
    return files
