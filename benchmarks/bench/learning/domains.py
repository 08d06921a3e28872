"""Samples seen through domains that a bundle was not trained on: what each part of a signature can do, for digits and photographs.

Photographs are CIFAR-100's images in its 20 coarse classes: 1,000 training and 250 test images each. Digits have shaped the runtime's
defaults; of photographs nothing was chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from bench.adapting.corruptions import corrupted
from bench.adapting.shifted import Shifted, cifar_100
from bench.learning.held_out import KILOBYTE
from isoform.runtime import Runtime
from isoform.runtime.arrays import Array
from isoform.train.data.domains import NEW_USERS
from isoform.train.data.load import load_task
from isoform.train.data.samples import Dataset, Split
from isoform.train.recipe import Recipe, TaskRecipe

__all__ = ["DOMAINS", "PHOTOMETRIC", "WAYS", "Domain", "digits", "measure", "photographs"]

DOMAINS = (*NEW_USERS, "rotated 30°")
PHOTOMETRIC = ("brightness", "contrast", "fog")
"""Corruptions of photographs (``corruptions.py``)."""
SHOTS = 10
WAYS: Mapping[str, Mapping[str, object]] = {
    "base signature": {},
    KILOBYTE: {"parts": ("delta", "coefficients")},
    "mixture": {"parts": ("mixture",)},
    "delta": {"parts": ("delta",)},
    "coefficients": {"parts": ("coefficients",)},
    "head": {"parts": ("head",)},
    "BN": {"parts": ("bn",), "statistics": False},
    "mixture + BN": {"parts": ("mixture", "bn"), "statistics": False},
    "statistics + mixture": {"parts": ("mixture",), "statistics": True},
    "statistics + mixture + BN": {"parts": ("mixture", "bn")},
    "mixture + BN + head": {"parts": ("mixture", "bn", "head")},
}
"""Row → arguments of ``Runtime.personalize``; statistics are allowed where BN or coefficients move, unless it says otherwise."""

Domain = tuple[str, Split, Split]
"""Name, samples to draw learning samples from, samples to test on."""


def measure(
    path: Path, *, draws: int, ways: Iterable[str], domains: Iterable[Domain], steps: int
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Mean test accuracy in percent: way → domain → number; and bytes of the largest file: way → number.

    Args:
        path: A compiled bundle.
        draws: How often samples are drawn.
        ways: Keys of ``WAYS``.
        domains: Of the samples that the bundle takes.
        steps: As in ``Runtime.personalize``.
    """
    table: dict[str, dict[str, float]] = {way: {} for way in ways}
    sizes = dict.fromkeys(table, 0)
    with Runtime.open(path) as runtime:
        for domain, learning, testing in domains:
            for way, row in table.items():
                scores = []
                for draw in range(draws):
                    x, labels = drawn(learning, draw)
                    outcome = runtime.fit(x, labels, seed=draw, steps=steps, **WAYS[way]) if WAYS[way] else None
                    # without a fit: the base that does best on the samples, which any fit starts from
                    signature = outcome.signature if outcome else _best(runtime, x, labels)
                    found = runtime.predict(testing.images, signature).argmax(axis=1)
                    scores.append(100 * float((found == testing.labels).mean()))
                    if outcome and outcome.improved:
                        sizes[way] = max(sizes[way], len(outcome.signature.encode()))
                row[domain] = float(np.mean(scores))
    return table, sizes


def digits(path: Path, kinds: Iterable[str]) -> Iterator[Domain]:
    """Some of ``DOMAINS``, of the digits that the quickstart's bundle was trained on."""
    with Runtime.open(path) as runtime:
        recipe = Recipe.of_bundle(runtime.bundle.training["recipe"], where="recipe")
    for domain in kinds:
        task = TaskRecipe(data="digits", domain=domain if domain in NEW_USERS else "plain")
        dataset = load_task(task, recipe.data, root=None)
        halves = [dataset.train, dataset.test] if domain in NEW_USERS else _rotated(dataset)
        yield domain, halves[0], halves[1]


def photographs(data: Path) -> tuple[Shifted, list[Domain]]:
    """CIFAR-100 in its coarse classes, clean to train on, and its images in ``PHOTOMETRIC``.

    The images to learn from are of the test half, one third of it, so that no network has seen them.
    """
    shifted, domains = cifar_100(data, coarse=True), list[Domain]()
    for name in PHOTOMETRIC:
        x, labels = shifted.stream("clean", 5000)
        third = len(x) // 3
        seen = corrupted(x, name, seed=0)
        halves = [Split(images=seen[part], labels=labels[part]) for part in (slice(third), slice(third, None))]
        domains.append((name, halves[0], halves[1]))
    return shifted, domains


def drawn(split: Split, draw: int) -> tuple[Array, Array]:
    """Ten samples of each class."""
    rng, labels = np.random.default_rng((1, draw)), split.labels
    rows = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:SHOTS] for label in np.unique(labels)])
    return split.images[rows], labels[rows]


def _best(runtime: Runtime, x: Array, labels: Array) -> object:
    return min(
        (runtime.signature(task) for task in runtime.tasks),
        key=lambda s: -float((runtime.predict(x, s).argmax(1) == labels).mean()),
    )


def _rotated(dataset: Dataset) -> list[Split]:
    """Both halves, turned by 30°, linear interpolation, 0 outside."""

    def turned(images: Array) -> Array:
        return np.clip(ndimage.rotate(images, 30, axes=(2, 3), reshape=False, order=1), 0, 1).astype(np.float32)

    assert dataset.test is not None
    return [dataclasses.replace(half, images=turned(half.images)) for half in (dataset.train, dataset.test)]
