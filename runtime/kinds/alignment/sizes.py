"""How many numbers the tasks of a bundle store, share and keep for themselves, against networks of their own. Source: MUIR, section 4.2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.alignment.spec import AlignmentSpec

__all__ = ["account"]


def account(spec: AlignmentSpec, signatures: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[str, Any]]:
    """Count, for each task of a bundle.

    Args:
        spec: The bundle's sizes.
        signatures: Task → parts of its base signature, of all tasks.

    Returns:
        Task → ``locations``; ``generic_locations``, those that use a generic module; ``shared_locations``, those whose module another task
        uses; ``modules``, different ones in use; ``plain_numbers``, of its aligned weights in a network of their own;
        ``exclusive_numbers`` and ``shared_numbers``, of the modules that it alone uses, contexts included, and that others use as well;
        ``numbers_over_plain``: all aligned weights of all tasks as they are stored, alignments included as half a number each, over those of
        networks of their own; the same for every task.
    """
    users = {task: np.unique(parts["alignment"]) for task, parts in signatures.items()}
    count = np.zeros(spec.hypermodules + spec.specific, dtype=np.int64)
    for used in users.values():
        count[used] += 1
    sizes = np.full(len(count), spec.m * spec.n)
    sizes[: spec.hypermodules] *= spec.context
    found: dict[str, dict[str, Any]] = {}
    for task, parts in signatures.items():
        alignment, own = parts["alignment"], users[task]
        contexts = parts["contexts"].size if "contexts" in parts else 0
        found[task] = {
            "locations": len(alignment), "generic_locations": int((alignment < spec.hypermodules).sum()),
            "shared_locations": int((count[alignment] > 1).sum()), "modules": len(own),
            "plain_numbers": sum(int(np.prod(cut.shape)) for cut in spec.cuts(task).values()),
            "exclusive_numbers": int(sizes[own][count[own] == 1].sum()) + contexts,
            "shared_numbers": int(sizes[own][count[own] > 1].sum()),
        }  # fmt: skip
    # a whole number of an alignment takes two bytes, as half a float
    stored = int(sizes.sum()) + sum(
        parts["alignment"].size // 2 + (parts["contexts"].size if "contexts" in parts else 0)
        for parts in signatures.values()
    )
    ratio = round(stored / sum(told["plain_numbers"] for told in found.values()), 6)
    return {task: {**told, "numbers_over_plain": ratio} for task, told in found.items()}
