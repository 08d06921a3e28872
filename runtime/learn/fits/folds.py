"""Folds of cross-validation: disjoint sets of samples that are held out in turn.

    stratified_folds     random samples, every class as evenly as possible
    group_folds          whole groups: no group is in both a fold and its rest

Samples of one recording, one day or one person are alike, so that random samples of it that are held out say little about another
recording, day or person (Roberts et al. 2017, "Cross-validation strategies for data with temporal, spatial, hierarchical, or
phylogenetic structure"). Contiguous blocks of a single recording are no substitute for a second one (tried: fits that they stopped were
no better on another occasion than those that random samples stopped, and promised as much; docs/log.md).

All randomness comes from a numpy generator that the caller seeds, so the same seed gives the same folds.
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["group_folds", "groups_per_class", "stratified_folds"]


def stratified_folds(labels: Array, count: int, rng: np.random.Generator) -> list[Array]:
    """Partition the rows into folds of random rows, with each class's rows spread as evenly as possible.

    Args:
        labels: Class indices, shape (n,).
        count: Number of folds, 1 to n.
        rng: Generator of the order.
    """
    # rows ordered by class, then dealt out in turn: every fold gets a class's samples as evenly as possible
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    return [np.sort(order[first::count]) for first in range(count)]


def group_folds(labels: Array, groups: Array, count: int, rng: np.random.Generator) -> list[Array]:
    """Choose folds of whole groups, such that every class in a fold also has a group outside it.

    Greedy: groups of many classes and samples come first. Each goes to the fold that has the fewest of its classes, then the smallest
    share of their samples, then of all samples. A group that fits in no fold, because it is a class's last outside of each, stays out.

    Args:
        labels: Class indices, shape (n,). Every class has at least two groups.
        groups: Each row's group, shape (n,), int64, 0 or more; of one class or several.
        count: Number of folds, at least 2. Each has every class if no class has fewer groups and no group has several classes.
        rng: Generator that decides between groups of equal size.

    Returns:
        Rows of each fold, disjoint; folds that no group is left for are left out.
    """
    pairs, numbers = np.unique(np.stack([groups, labels], axis=1), axis=0, return_counts=True)
    _, firsts = np.unique(pairs[:, 0], return_index=True)
    # one entry per group: its number, its classes, and how many samples of each it has
    members = [
        (int(pairs[rows[0], 0]), pairs[rows, 1], numbers[rows]) for rows in np.split(np.arange(len(pairs)), firsts[1:])
    ]
    members = [members[place] for place in rng.permutation(len(members))]
    members.sort(key=lambda member: (-len(member[1]), -int(member[2].sum())))
    limits, totals = np.bincount(pairs[:, 1]), np.bincount(labels)  # groups and samples of each class
    met = np.zeros((count, len(limits)), dtype=np.int64)  # groups of each class in each fold
    shares = np.zeros((count, len(limits)))  # share of each class's samples in each fold
    chosen: list[list[int]] = [[] for _ in range(count)]
    for group, classes, samples in members:
        allowed = [fold for fold in range(count) if (met[fold, classes] + 1 < limits[classes]).all()]
        if not allowed:
            continue
        rank = {
            fold: (int((met[fold, classes] > 0).sum()), float(shares[fold, classes].sum()), float(shares[fold].sum()))
            for fold in allowed
        }
        fold = min(allowed, key=rank.__getitem__)
        met[fold, classes] += 1
        shares[fold, classes] += samples / totals[classes]
        chosen[fold].append(group)
    return [np.flatnonzero(np.isin(groups, fold)) for fold in chosen if fold]


def groups_per_class(labels: Array, groups: Array) -> Array:
    """Return the number of groups that each class occurs in, shape (classes,), int64; 0 for a class without samples."""
    pairs = np.unique(np.stack([groups, labels], axis=1), axis=0)
    return np.bincount(pairs[:, 1])
