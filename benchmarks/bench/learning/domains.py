"""Digits seen through domains that a bundle was not trained on: what each part of a signature can do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from isoform.runtime import Runtime
from isoform.runtime.arrays import Array
from isoform.train.data.domains import NEW_USERS
from isoform.train.data.load import load_task
from isoform.train.data.samples import Dataset
from isoform.train.recipe import Recipe, TaskRecipe

__all__ = ["DOMAINS", "WAYS", "measure"]

DOMAINS = (*NEW_USERS, "rotated 30°")
SHOTS = 10
WAYS: Mapping[str, Mapping[str, object]] = {
    "base signature": {},
    "mixture": {"parts": ("mixture",)},
    "delta + coefficients": {"parts": ("delta", "coefficients")},
    "delta": {"parts": ("delta",)},
    "coefficients": {"parts": ("coefficients",)},
    "head": {"parts": ("head",)},
    "BN": {"parts": ("bn",), "statistics": False},
    "mixture + BN": {"parts": ("mixture", "bn"), "statistics": False},
    "statistics + mixture": {"parts": ("mixture",), "statistics": True},
    "statistics + mixture + BN": {"parts": ("mixture", "bn")},
    "mixture + BN + head": {"parts": ("mixture", "bn", "head")},
}
"""Row → arguments of ``Runtime.personalize``; statistics are allowed where BN moves, unless it says otherwise."""


def measure(
    path: Path, *, draws: int, ways: Iterable[str], kinds: Iterable[str], steps: int
) -> dict[str, dict[str, float]]:
    """Mean test accuracy in percent: way → domain → number.

    Args:
        path: The quickstart's bundle, compiled.
        draws: How often samples are drawn.
        ways: Keys of ``WAYS``.
        kinds: Some of ``DOMAINS``.
        steps: As in ``Runtime.personalize``.
    """
    table: dict[str, dict[str, float]] = {way: {} for way in ways}
    with Runtime.open(path) as runtime:
        recipe = Recipe.from_json(runtime.bundle.training["recipe"])
        for domain in kinds:
            dataset = (
                _rotated(load_task(TaskRecipe(data="digits"), recipe.data, root=None))
                if domain not in NEW_USERS
                else load_task(TaskRecipe(data="digits", domain=domain), recipe.data, root=None)
            )
            assert dataset.test is not None
            for way, row in table.items():
                scores = []
                for draw in range(draws):
                    x, labels = drawn(dataset, draw)
                    outcome = runtime.fit(x, labels, seed=draw, steps=steps, **WAYS[way]) if WAYS[way] else None
                    # without a fit: the base that does best on the samples, which any fit starts from
                    signature = outcome.signature if outcome else _best(runtime, x, labels)
                    found = runtime.predict(dataset.test.images, signature).argmax(axis=1)
                    scores.append(100 * float((found == dataset.test.labels).mean()))
                row[domain] = float(np.mean(scores))
    return table


def drawn(dataset: Dataset, draw: int) -> tuple[Array, Array]:
    """Ten samples of each class out of the training half."""
    rng, labels = np.random.default_rng((1, draw)), dataset.train.labels
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == label))[:SHOTS] for label in range(len(dataset.classes))]
    )
    return dataset.train.images[rows], labels[rows]


def _best(runtime: Runtime, x: Array, labels: Array) -> object:
    return min(
        (runtime.signature(task) for task in runtime.tasks),
        key=lambda s: -float((runtime.predict(x, s).argmax(1) == labels).mean()),
    )


def _rotated(dataset: Dataset) -> Dataset:
    """Turned by 30°, linear interpolation, 0 outside."""
    import dataclasses

    def turned(images: Array) -> Array:
        return np.clip(ndimage.rotate(images, 30, axes=(2, 3), reshape=False, order=1), 0, 1).astype(np.float32)

    assert dataset.test is not None
    halves = [dataclasses.replace(half, images=turned(half.images)) for half in (dataset.train, dataset.test)]
    return dataclasses.replace(dataset, train=halves[0], test=halves[1])
