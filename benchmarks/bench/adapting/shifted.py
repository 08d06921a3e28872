"""Networks and the domains that they were not trained on: MNIST and a subset of CIFAR-100, corrupted, and digits from elsewhere.

``usps``      USPS's test digits, enlarged from 16 to 20 pixels and centred in 28, as MNIST's are
``mnist-m``   MNIST's digits blended with photographs, as grey by luma and reduced to 28 pixels
"""

from __future__ import annotations

import csv
import functools
import io
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from bench.adapting.corruptions import CORRUPTIONS, corrupted
from bench.product import save_samples, train_and_compile
from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.samples.pictures.images import resize
from isoform.train.data.formats.idx import read_idx_folder
from isoform.train.data.formats.usps import read_usps_folder
from isoform.train.data.samples import Dataset, Split

__all__ = ["NATURAL", "Shifted", "cifar_100", "mnist", "mnist_m", "photographs"]

NATURAL = ("usps", "mnist-m")
"""Shifts that nobody made."""


class Shifted:
    """A data set, and its test samples in any domain.

    Args:
        name: What to call it.
        dataset: Both halves.
        natural: Domain → samples and labels, for those that are no corruption.
    """

    def __init__(
        self, name: str, dataset: Dataset, natural: dict[str, Callable[[], tuple[Array, Array]]] | None = None
    ) -> None:
        assert dataset.test is not None
        self.name, self.classes, self._train, self._test = name, dataset.classes, dataset.train, dataset.test
        self.shape = dataset.train.images.shape[1:]
        self._natural = natural or {}
        self.domains = (*CORRUPTIONS, *self._natural)
        self._order = np.random.default_rng(0).permutation(len(self._test.labels))

    @functools.lru_cache(maxsize=64)  # noqa: B019  # lives as long as the benchmark
    def stream(self, domain: str, count: int, *, first: int = 0, seed: int = 0) -> tuple[Array, Array]:
        """Test samples in a random order, which is the same in all domains that corrupt them, and their labels.

        Args:
            domain: One of ``domains``, or ``clean``.
            count: How many; beyond the last the first come again, corrupted anew.
            first: Where in that order to begin.
            seed: Of the corruption.
        """
        if domain in self._natural:
            x, labels = self._natural[domain]()
            rows = np.random.default_rng(0).permutation(len(labels))[first : first + count]
            return x[rows], labels[rows]
        rows = np.take(self._order, np.arange(first, first + count), mode="wrap")
        x = self._test.images[rows]
        return (x if domain == "clean" else corrupted(x, domain, seed=seed)), self._test.labels[rows]

    def bundle(self, path: Path, *, steps: int, batch: int, soft: bool = False) -> Bundle:
        """Train one task on clean samples by a recipe, and compile it; near-one-hot with 4 templates, or soft with 16."""
        tests = self._test.images[::10], self._test.labels[::10]
        network = "\n[network]\ntemplates = 16\n\n[mixture]\nentropy = 0.0\n" if soft else ""
        with tempfile.TemporaryDirectory(prefix="isoform-clean-") as folder:
            split = save_samples(
                Path(folder) / "clean.npz", ((self._train.images, self._train.labels), tests), self.classes
            )
            recipe = (
                f"steps = {steps}\nbatch = {batch}\nthreads = 1\n\n[data]\ninput_shape = {list(self.shape)}\n{split}"
                f'{network}\n[tasks.{self.name}]\ndata = "files"\npath = "clean.npz"\n'
            )
            return train_and_compile(recipe, path, data=Path(folder))


def mnist(data: Path) -> Shifted:
    """MNIST, all of it; with USPS and MNIST-M."""
    return Shifted(
        "mnist", read_idx_folder(data / "mnist"), {"usps": lambda: _usps(data / "usps"), "mnist-m": lambda: mnist_m(data / "mnist-m")}
    )  # fmt: skip


def cifar_100(data: Path, *, coarse: bool = False) -> Shifted:
    """CIFAR-100's classes as ``photographs`` returns them, in any domain."""
    return Shifted("cifar-100", photographs(data, coarse=coarse))


def photographs(data: Path, *, coarse: bool = False, few: int = 0) -> Dataset:
    """CIFAR-100's 100 fine classes, 200 training and 50 test images each; or its 20 coarse ones, five times as many; or a few of each half."""
    folder = data / "cifar-100"
    with (folder / "labels.csv").open() as file:
        named = {row["fine_name"]: row["coarse_name" if coarse else "fine_name"] for row in csv.DictReader(file)}
    names = sorted(set(named.values()))
    halves = [_zipped(folder / f"cifar100_{half}.zip", named, names, few) for half in ("train_20000", "test_5000")]
    return Dataset(train=halves[0], test=halves[1], classes=tuple(names))


def _zipped(path: Path, named: Mapping[str, str], names: list[str], few: int) -> Split:
    """Images by folder, or so many of them; ``named``: folder → class."""
    images, labels = list[Array](), list[int]()
    with zipfile.ZipFile(path) as archive:
        files = sorted(name for name in archive.namelist() if name.endswith(".png"))
        for name in np.random.default_rng(0).permutation(files)[:few].tolist() if few else files:
            images.append(np.asarray(Image.open(io.BytesIO(archive.read(name)))).transpose(2, 0, 1))
            labels.append(names.index(named[name.split("/")[-2]]))
    return Split(images=np.stack(images).astype(np.float32) / 255, labels=np.array(labels))


def _usps(folder: Path) -> tuple[Array, Array]:
    half = read_usps_folder(folder).test
    assert half is not None
    result = np.zeros((len(half.labels), 1, 28, 28), dtype=np.float32)
    for target, image in zip(result, half.images, strict=True):
        target[:, 4:24, 4:24] = resize(image, 20, 20)
    return result, half.labels


def mnist_m(folder: Path) -> tuple[Array, Array]:
    """MNIST-M's test split, the only one that is there, in grey: images (n, 1, 28, 28) and labels."""
    lines = [line.split() for line in (folder / "mnist_m_test_labels.txt").read_text().splitlines() if line]
    luma, images = np.array([0.299, 0.587, 0.114], dtype=np.float32), []
    with zipfile.ZipFile(folder / "mnist_m_test.zip") as archive:
        for name, _ in lines:
            image = np.asarray(Image.open(io.BytesIO(archive.read(f"mnist_m_test/{name}"))).convert("RGB"))
            images.append(resize((image.astype(np.float32) / 255 @ luma)[None], 28, 28))
    return np.stack(images), np.array([int(label) for _, label in lines])
