"""Holding out by group: no group is learned from and judged by, no class is forgotten, and what was done is said."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoform.runtime.errors import InputError
from isoform.runtime.learn.fits.folds import group_folds, groups_per_class
from isoform.runtime.learn.fits.trial import FOLDS, PLENTY, held_back
from isoform.runtime.learn.labels import group_indices
from isoform.runtime.learn.outcome import held_out_groups
from isoform.train.data.domains import transform

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), min_size=2, max_size=60)
"""Class and group of every sample."""


@given(PAIRS, st.integers(0, 3))
def test_no_class_is_forgotten_and_no_group_is_on_both_sides(pairs, seed) -> None:
    """Whatever the groups: folds are disjoint, and their rest has every class of theirs, from another group if the class is in several."""
    labels, groups = (np.array(column) for column in zip(*pairs, strict=True))
    folds = held_back(labels, seed=seed, groups=groups)
    rows = np.concatenate([np.empty(0, dtype=np.int64), *folds])
    assert len(np.unique(rows)) == len(rows)
    several = groups_per_class(labels, groups) >= 2
    for fold in folds:
        assert len(fold)
        rest = np.setdiff1d(np.arange(len(labels)), fold)
        assert set(labels[fold]) <= set(labels[rest])
        whole, others = fold[several[labels[fold]]], rest[several[labels[rest]]]
        assert not set(groups[whole]) & set(groups[others])
    again = held_back(labels, seed=seed, groups=groups)
    assert all(np.array_equal(one, other) for one, other in zip(folds, again, strict=True))


@given(PAIRS.filter(lambda pairs: len({label for label, _ in pairs}) > 1), st.integers(0, 3))
def test_one_group_or_one_per_class_changes_nothing(pairs, seed) -> None:
    """Where groups tell nothing, the choice is the one without them, to the last row."""
    labels = np.array([label for label, _ in pairs])
    expected = held_back(labels, seed=seed)
    for groups in (np.zeros_like(labels), labels + 3):
        found = held_back(labels, seed=seed, groups=groups)
        assert len(found) == len(expected)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_recordings_of_one_class_each() -> None:
    """Two recordings of each of six classes: two folds, one recording of every class in each, and all samples in one of them."""
    labels = np.repeat(np.arange(6), 20)
    groups = np.repeat(np.arange(12), 10)
    folds = held_back(labels, seed=0, groups=groups)
    assert [len(fold) for fold in folds] == [60, 60]
    for fold in folds:
        assert sorted(labels[fold]) == sorted(labels[::2])
        assert len(set(groups[fold])) == 6


def test_days_of_all_classes() -> None:
    """Five days in four folds: each has a day or two; another seed may choose others."""
    labels, groups = np.tile([0, 1, 2], 20), np.repeat(np.arange(5), 12)
    folds = held_back(labels, seed=0, groups=groups)
    assert sorted(len(set(groups[fold])) for fold in folds) == [1, 1, 1, 2]
    assert len({tuple(groups[held_back(labels, seed=seed, groups=groups)[0]]) for seed in range(9)}) > 1


def test_every_class_in_as_many_folds_as_it_can() -> None:
    """Class 2 is on two days of six only: two folds, and both have it."""
    labels = np.concatenate([np.tile([0, 1], 12), [2, 2]])
    groups = np.concatenate([np.repeat(np.arange(6), 4), [0, 1]])
    folds = held_back(labels, seed=0, groups=groups)
    assert [set(labels[fold]) for fold in folds] == [{0, 1, 2}, {0, 1, 2}]


def test_a_class_of_one_group_is_held_out_at_random() -> None:
    """Sitting was recorded once, walking twice: recordings of walking are whole, and each fold has half of the sitting."""
    labels, groups = np.repeat([0, 1], [8, 8]), np.repeat([0, 1, 2], [8, 4, 4])
    folds = held_back(labels, seed=0, groups=groups)
    assert [np.bincount(labels[fold]).tolist() for fold in folds] == [[4, 4], [4, 4]]
    assert [len(set(groups[fold[labels[fold] == 1]])) for fold in folds] == [1, 1]
    assert held_out_groups(labels, groups, folds) == (2, 1)
    assert held_out_groups(labels, labels, held_back(labels, seed=0, groups=labels)) == (0, 2)
    assert held_out_groups(labels, None, held_back(labels, seed=0)) == (0, 0)


def test_groups_that_cannot_be_parted_stay_in_the_rest() -> None:
    """Three groups, each two of three classes: two go to a fold each, the third would take a class away from one."""
    labels, groups = np.array([1, 2, 1, 0, 2, 0]), np.array([0, 0, 1, 1, 2, 2])
    folds = group_folds(labels, groups, 2, np.random.default_rng(0))
    assert [len(set(groups[fold])) for fold in folds] == [1, 1]


def test_one_fold_is_enough_if_it_has_many_groups() -> None:
    """Many samples of few groups are not enough."""
    labels = np.tile([0, 1], 400)
    for count, expected in ((8, FOLDS), (4 * PLENTY, 1)):
        groups = np.arange(800) * count // 800
        assert len(held_back(labels, seed=0, groups=groups)) == expected


def test_a_gain_for_other_groups_is_kept(runtime, samples) -> None:
    """Slanted digits of ten groups: whole groups are held out, the fit improves, the outcome counts them; without groups none."""
    x, labels = transform(np.array(samples[0][:200]), domain="slanted"), np.array(samples[1][:200])
    groups = [f"day {row % 10}" for row in range(200)]
    found = runtime.fit(x, labels, runtime.signature("plain"), groups=groups, steps=40)
    assert found.improved
    assert (found.held_back_groups, found.classes_in_one_group) == (10, 0)
    assert "on 200 samples of 10 held-out days loss" in found.sentence(unit="day")
    mixed = dataclasses.replace(found, classes_in_one_group=1)
    assert "200 held-out samples, of 10 held-out groups and at random of 1 class in a single group, loss" in (
        mixed.sentence()
    )
    none = dataclasses.replace(found, classes_in_one_group=10, held_back_groups=0)
    assert "200 held-out samples, at random because each class is in a single group, loss" in none.sentence()


def test_a_gain_for_the_same_groups_alone_is_refused(runtime, samples) -> None:
    """Each group has labels of its own for the same digits: samples held out at random pass the fit, held-out groups refuse it."""
    x, labels = np.repeat(np.array(samples[0][:60]), 4, axis=0), np.repeat(np.array(samples[1][:60]), 4)
    groups = np.repeat(np.arange(60) // 20, 4)
    labels = (labels + groups) % 10
    x = np.clip(x + 0.5 * groups[:, None, None, None], 0, 1).astype(np.float32)
    base = runtime.signature("plain")
    alike, apart = (runtime.fit(x, labels, base, groups=which, steps=60) for which in (None, groups))
    assert alike.improved
    assert apart.signature is base


def test_groups_are_numbered_as_met() -> None:
    """Strings and integers."""
    assert group_indices(["b", "a", "b"], samples=3).tolist() == [0, 1, 0]
    assert group_indices(np.array([7, -1, 7]), samples=3).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a"], r"groups have shape \(1,\) for 20 samples, but one group per sample"),
        ([["a"] * 20], r"groups have shape \(1, 20\)"),
        ([0.5] * 20, "the group of sample 0 is 0.5, but a string or an integer was expected"),
        (["a"] * 19 + [True], "the group of sample 19 is True, but a string or an integer"),
        (["a"] * 19 + [None], "the group of sample 19 is None"),
        (["a"] * 19 + [1], "the group of sample 19 is 1 and that of sample 0 'a', but all strings or all integers"),
    ],
)
def test_groups_that_are_none_are_refused(runtime, samples, groups, message) -> None:
    """One per sample, of one type."""
    with pytest.raises(InputError, match=message):
        runtime.personalize(samples[0][:20], samples[1][:20], groups=groups)
