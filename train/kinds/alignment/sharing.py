"""Who shares what: how many modules each set of tasks uses, and which layers use the same ones (MUIR, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["between_layers", "subsets"]


def subsets(alignment: Array, places: Mapping[str, slice]) -> dict[str, int]:
    """Count the modules that exactly these tasks use (figure 3a).

    Args:
        alignment: ψ of all locations, shape (L,).
        places: Task → its locations.

    Returns:
        Names of tasks, joined by `` + `` → number of modules; only of those sets that share some.
    """
    used = np.zeros((len(places), int(alignment.max()) + 1), dtype=bool)
    for row, place in zip(used, places.values(), strict=True):
        row[alignment[place]] = True
    names = [*places]
    found: dict[str, int] = {}
    columns, counts = np.unique(used[:, used.any(axis=0)], axis=1, return_counts=True)
    for column, count in zip(columns.T, counts, strict=True):
        found[" + ".join(name for name, there in zip(names, column, strict=True) if there)] = int(count)
    return found


def between_layers(alignment: Array, places: Sequence[slice]) -> Array:
    """Compute how many times more often locations of two layers use the same module than they would by chance (figure 3b).

    By chance they do as often as any two different locations of all.

    Args:
        alignment: ψ of all locations, shape (L,).
        places: Each layer's locations.

    Returns:
        Shape (layers, layers), symmetric; on the diagonal of different locations of one layer, 0 for a layer with a single one.
    """
    size = int(alignment.max()) + 1
    counts = np.stack([np.bincount(alignment[place], minlength=size) for place in places]).astype(np.float64)
    sizes, total = counts.sum(axis=1), counts.sum(axis=0)
    pairs, same = np.outer(sizes, sizes), counts @ counts.T
    # a location is not a pair with itself
    np.fill_diagonal(same, (counts * (counts - 1)).sum(axis=1))
    np.fill_diagonal(pairs, sizes * (sizes - 1))
    length = len(alignment)
    chance = float((total * (total - 1)).sum()) / (length * (length - 1)) if length > 1 else 0.0
    found: Array = np.divide(same, pairs * chance, out=np.zeros_like(same), where=pairs * chance > 0)
    return found
