"""From five labelled sources of digits to USPS without labels (Compositional Models, table 3): one run of each row.

The sources are MNIST, its shear, scale and shot noise at MNIST-C's strengths, and MNIST-M, of which 8,000 of the 9,001 images that are there
are for training. All are grey, 28×28 pixels; USPS is enlarged from 16×16 without a margin, as is usual. Its training images have no labels.

    source only             USPS with a source's signature, BN statistics included; the mean over sources, and the best by USPS' own labels
    BN statistics           the mean of the sources' mixture weights, and statistics of USPS' own
    mixture weights         64 numbers are trained, and BN statistics are USPS' own
    input adapter           the paper's rival: an untied network, of which 384 numbers of the input adapter are trained, and BN statistics;
                            at the learning rate of the other weights. Neither its rate nor that of the mixture weights was searched for
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.adapting.corruptions import corrupted
from bench.adapting.shifted import mnist_m
from bench.recipes import recipe_of, trained_on
from bench.training.steps import train_alone
from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.samples.pictures.images import resize
from isoform.train.data.formats.idx import read_idx_folder
from isoform.train.data.formats.usps import read_usps_folder
from isoform.train.data.samples import Dataset, Split
from isoform.train.kinds.mixture.adaptation import AdaptationRun
from isoform.train.kinds.mixture.bundling import network_from_bundle
from isoform.train.kinds.mixture.recipe import MixtureRecipe
from isoform.train.loop import accuracy

__all__ = ["ROWS", "SOURCES", "TARGET", "enlarged", "trained"]

SOURCES, TARGET = ("mnist", "shear", "scale", "shot-noise", "mnist-m"), "usps"
CLASSES = tuple(map(str, range(10)))
ROWS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "BN statistics": ("mixture", {"adaptation.begin": 1.0}),
    "mixture weights, adversarial": ("mixture", {"adaptation.method": "adversarial"}),
    "mixture weights, moment matching": ("mixture", {"adaptation.method": "moments"}),
    "mixture weights, information": ("mixture", {"adaptation.method": "information"}),
    "input adapter, adversarial": ("adapter", {"adaptation.method": "adversarial", "adaptation.lr": 0.006}),
    "input adapter, moment matching": ("adapter", {"adaptation.method": "moments", "adaptation.lr": 0.006}),
}
"""Row → what is trained of the target, and fields of the recipe."""


def trained(row: str, seed: int, steps: int, data: str, few: int) -> dict[str, Any]:
    """Train on all domains, and test on USPS' test images.

    Args:
        row: One of ``ROWS``.
        seed: The recipe's seed.
        steps: Batches of 32 per domain.
        data: Folder of the data sets.
        few: Images per domain and half; 0 for all.
    """
    way, fields = ROWS[row]
    domains = datasets(Path(data), few=few)
    changes = {"steps": steps, "seed": seed, **fields}
    if way == "adapter":
        changes["mixture.signature"] = "sequential"  # with K = L every layer has weights of its own
    recipe = recipe_of("digits-usps", [*domains], changes)
    assert isinstance(recipe, MixtureRecipe)
    if way == "adapter":
        run = InputAdapterRun(recipe, domains)
        train_alone(run, recipe, domains)
        assert domains[TARGET].test is not None
        return {
            "accuracy": 100 * accuracy(run, domains[TARGET].test, task=[*domains].index(TARGET)),
            "numbers": run.network.input_adapter.numel(),
        }
    made = trained_on(recipe, domains)
    scores = made.training["test_accuracy"]
    found = {
        "accuracy": 100 * scores[TARGET], "numbers": 0 if row == "BN statistics" else made.training["adapted_numbers"],
        "sources": 100 * float(np.mean([scores[name] for name in SOURCES])), "mean_max_xi": made.training["mean_max_xi"],
    }  # fmt: skip
    return {**found, "source_only": _source_only(made, domains[TARGET])} if row == "BN statistics" else found


@torch.no_grad()
def _source_only(bundle: Bundle, target: Dataset) -> dict[str, float]:
    """Return the accuracy on the target's test images by the signature of each source, as it is."""
    network, half, found = network_from_bundle(bundle, bundle.signatures), target.test, {}
    assert half is not None
    for task, name in enumerate(bundle.signatures):
        if name != TARGET:
            answers = [
                network(torch.from_numpy(half.images[rows : rows + 512]), task)
                for rows in range(0, len(half.labels), 512)
            ]
            found[name] = 100 * float((torch.cat(answers).argmax(1).numpy() == half.labels).mean())
    return found


class InputAdapterRun(AdaptationRun):
    """The target has an input adapter of its own instead of mixture weights. The result can be tested on the target alone."""

    TRAINED = ("target_adapter",)

    def __init__(self, recipe: MixtureRecipe, datasets: Mapping[str, Dataset]) -> None:
        super().__init__(recipe, datasets)
        self.network.target_adapter = nn.Parameter(self.network.input_adapter.detach().clone())

    def begin(self, step: int, optimizer: torch.optim.Optimizer) -> list[range]:
        """As ``Run.begin``; until the adaptation begins, the target's adapter is the sources'."""
        found = super().begin(step, optimizer)
        if not self.adapting:
            self.network.target_adapter.copy_(self.network.input_adapter)  # type: ignore[operator]
        return found

    def constants(self) -> dict[str, Tensor]:
        """As ``AdaptationRun.constants``, with the target's adapter in the place of the sources'."""
        return {**super().constants(), "network.input_adapter": self.network.target_adapter}  # type: ignore[dict-item]

    @torch.no_grad()
    def finish(self) -> None:
        """As ``Run.finish``; from here on the network is the target's."""
        self.network.input_adapter.copy_(self.network.target_adapter)  # type: ignore[arg-type]
        super().finish()


def datasets(data: Path, *, few: int = 0) -> dict[str, Dataset]:
    """Read all six domains, or a few images of each."""
    clean = _cut(read_idx_folder(data / "mnist"), few)
    assert clean.test is not None
    found = {"mnist": clean}
    for name in SOURCES[1:4]:
        halves = [
            Split(images=corrupted(half.images, name.replace("-", " "), seed=seed), labels=half.labels)
            for seed, half in enumerate((clean.train, clean.test))
        ]
        found[name] = Dataset(train=halves[0], test=halves[1], classes=CLASSES)
    images, labels = mnist_m(data / "mnist-m")
    order = np.random.default_rng(0).permutation(len(labels))
    cut = [Split(images=images[rows].astype(np.float32), labels=labels[rows]) for rows in (order[:8000], order[8000:])]
    found["mnist-m"] = _cut(Dataset(train=cut[0], test=cut[1], classes=CLASSES), few)
    usps = _cut(read_usps_folder(data / "usps"), few)
    assert usps.test is not None
    large = [Split(images=enlarged(half.images), labels=half.labels) for half in (usps.train, usps.test)]
    return {**found, TARGET: Dataset(train=large[0], test=large[1], classes=CLASSES)}


def _cut(dataset: Dataset, few: int) -> Dataset:
    halves = [
        Split(images=half.images[: few or None], labels=half.labels[: few or None])
        for half in (dataset.train, dataset.test)
        if half is not None
    ]
    return Dataset(train=halves[0], test=halves[1], classes=dataset.classes)


def enlarged(images: Array) -> Array:
    """Enlarge images to 28×28 pixels, without a margin."""
    return np.stack([resize(image, 28, 28) for image in images]).astype(np.float32)
