"""Digits and photographs in four domains to train on, and in three new ones; and the recipes of their networks.

All networks have the size of the recipe ``digits`` and take as many steps, each of as many samples of every domain:

shared      layers mixed from K = 4 shared templates, a signature per domain
pooled      an ordinary network, a template for each of its 8 layers, one for all domains: the samples of all domains are one task
own         an ordinary network for each domain
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.adapting.shifted import photographs
from bench.product import save_samples
from isoform.runtime.arrays import Array
from isoform.train.data.domains import NEW_USERS, transform
from isoform.train.data.load import load_task
from isoform.train.data.recipe import DataRecipe, TaskRecipe
from isoform.train.data.samples import Dataset, Split

__all__ = ["DOMAINS", "World", "digits", "ten_photographs"]

DOMAINS = ("plain", "inverted", "blurred", "edges")
"""The domains of the recipe ``digits``."""
BATCH = 32
"""Samples of a domain and step, as in that recipe."""


class World:
    """One data set in all domains.

    Args:
        name: What to call it.
        clean: Both halves, of the domain ``plain``; its classes are sorted.
        folder: Where its files go: ``plain.npz``, and ``pooled.npz`` with the samples of all of ``DOMAINS``.
    """

    def __init__(self, name: str, clean: Dataset, folder: Path) -> None:
        assert clean.test is not None
        self.name, self.classes, self.folder = name, clean.classes, folder
        self._train, self._test = clean.train, clean.test
        self.shape = clean.train.images.shape[1:]
        halves = [(half.images, half.labels) for half in (clean.train, clean.test)]
        self._split = save_samples(folder / "plain.npz", halves, clean.classes)
        pooled = [
            (np.concatenate([transform(x, domain=domain) for domain in DOMAINS]), np.tile(y, len(DOMAINS)))
            for x, y in halves
        ]
        self._split_pooled = save_samples(folder / "pooled.npz", pooled, clean.classes)

    def recipes(self, *, steps: int, seed: int, layers: int) -> Mapping[str, str]:
        """Name → recipe in TOML: ``shared``, ``pooled``, and ``own, DOMAIN`` for each."""
        # one thread: with two, a busy machine is several times slower
        head = f"steps = {steps}\nseed = {seed}\nthreads = 1\n"
        ordinary = f'layers = {layers}\ntemplates = {layers}\n{{more}}\n[mixture]\nsignature = "sequential"\n'
        tasks = {
            domain: f'\n[tasks.{domain}]\ndata = "files"\npath = "plain.npz"\ndomain = "{domain}"\n'
            for domain in DOMAINS
        }

        def recipe(split: str, network: str, task: str, batch: int = BATCH) -> str:
            data = f"[data]\ninput_shape = {list(self.shape)}\n{split}"
            return f"{head}batch = {batch}\n\n{data}\n[network]\n{network}{task}"

        # directions of BN's statistics are for personal signatures, which nobody learns on the networks of single domains
        single = ordinary.format(more="bn_directions = 0\n")
        pooled = '\n[tasks.pooled]\ndata = "files"\npath = "pooled.npz"\n'
        return {
            "shared": recipe(self._split, f"layers = {layers}\ntemplates = 4\n", "".join(tasks.values())),
            "pooled": recipe(self._split_pooled, ordinary.format(more=""), pooled, BATCH * len(DOMAINS)),
            **{f"own, {domain}": recipe(self._split, single, task) for domain, task in tasks.items()},
        }

    def split(self, domain: str) -> tuple[Split, Split]:
        """Both halves in a domain, one of ``DOMAINS`` or ``NEW_USERS``: to draw learning samples from, and to test on."""
        halves = [
            Split(images=transform(half.images, domain=domain), labels=half.labels)
            for half in (self._train, self._test)
        ]
        return halves[0], halves[1]

    @property
    def new(self) -> tuple[str, ...]:
        """Domains that no network was trained on."""
        return NEW_USERS


def digits(folder: Path) -> World:
    """The quickstart's digits, in its split."""
    return World("digits", load_task(TaskRecipe(data="digits"), DataRecipe(), root=None), folder)


def ten_photographs(data: Path, folder: Path) -> World:
    """Every tenth of CIFAR-100's classes by name: 200 training and 50 test images each, RGB."""
    whole = photographs(data)
    assert whole.test is not None
    chosen = np.arange(len(whole.classes))[::10]

    def some(half: Split) -> Split:
        rows = np.isin(half.labels, chosen)
        labels: Array = np.searchsorted(chosen, half.labels[rows])
        return Split(images=half.images[rows], labels=labels)

    classes = tuple(whole.classes[place] for place in chosen)
    return World("photographs", Dataset(train=some(whole.train), test=some(whole.test), classes=classes), folder)
