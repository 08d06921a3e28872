"""Omniglot: 50 alphabets, 1,623 characters, each drawn once by each of 20 people; alphabets, and so their drawers, held out.

A drawer belongs to one alphabet and drew each of its characters once, so a drawer's own drawings cannot be learned from and
tested on as well. The user here is an alphabet: its characters are new classes, for which a signature gets a logits layer of its
own. Samples to learn from are by drawers 1 to 15, test samples by drawers 16 to 20: nobody is in both, and no template has seen any.
Source: Lake et al. 2015, "Human-level concept learning through probabilistic program induction"; see shared/data/README.md.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bench.learning.held_out import EVERYTHING, Samples
from isoform.runtime.arrays import Array
from isoform.runtime.errors import DataError

__all__ = ["Omniglot"]

ARCHIVES = ("omniglot/images_background.zip", "omniglot/images_evaluation.zip")
SHAPE = (1, 32, 32)
"""One sample: channels, height, width; drawn at 105×105."""
DRAWERS = 20
TESTERS = range(15, DRAWERS)


class Omniglot:
    """The study of alphabets; see ``held_out.Study``.

    Args:
        data: The folder of data sets, with ``omniglot`` in it.

    Raises:
        DataError: If it is not there.
    """

    shape, kernel, shift, templates, unit = SHAPE, (4, 4), 2, 4, "character"
    ways: Mapping[str, tuple[str, ...]] = {
        "mixture + BN + head": ("mixture", "bn", "head"), "mixture + head": ("mixture", "head"), "BN + head": ("bn", "head"),
        "head": ("head",), EVERYTHING: (),
    }  # fmt: skip
    shots = (1, 5, 10, 15)
    draws: Mapping[int, int] = {}

    def __init__(self, data: Path) -> None:
        self._alphabets = _read_alphabets(data)

    def held_out(self, third: int) -> tuple[str, ...]:
        """A third of the alphabets."""
        order = np.random.default_rng(0).permutation(sorted(self._alphabets)).tolist()
        return tuple(sorted(order[third::3]))

    def training(self, third: int) -> tuple[Samples, Samples, tuple[str, ...]]:
        """All drawings of the others, tested on those by the last drawer; every character is a class."""
        names = sorted(set(self._alphabets) - set(self.held_out(third)))
        classes = tuple(label for name in names for label in self._labels(name))
        some = [self._alphabets[name] for name in names]
        return _drawings(some, range(DRAWERS - 1)), _drawings(some, [DRAWERS - 1]), classes

    def learning(self, user: str, *, shots: int, seed: int) -> tuple[Array, Array]:
        """Drawings by so many of the drawers 1 to 15."""
        drawers = np.random.default_rng(seed).permutation(TESTERS.start)[:shots]
        return _drawings([self._alphabets[user]], sorted(drawers))

    def testing(self, user: str) -> tuple[Array, Array]:
        """Drawings by drawers 16 to 20."""
        return _drawings([self._alphabets[user]], TESTERS)

    def classes(self, user: str) -> tuple[str, ...]:
        """The alphabet's characters."""
        return self._labels(user)

    def _labels(self, name: str) -> tuple[str, ...]:
        return tuple(f"{name} {number + 1}" for number in range(len(self._alphabets[name])))


def _read_alphabets(data: Path) -> dict[str, Array]:
    """Alphabet → drawings, shape (characters, drawers, *SHAPE), float32 in [0, 1], ink 1."""
    found: dict[str, dict[str, dict[int, Array]]] = {}
    for name in ARCHIVES:
        if not (data / name).is_file():
            raise DataError(
                f"{data / name} is missing; the benchmark on alphabets needs Omniglot's archives, see shared/data/README.md"
            )
        with zipfile.ZipFile(data / name) as archive:
            for member in archive.namelist():
                path = Path(member)
                if path.suffix == ".png":
                    drawers = found.setdefault(path.parts[-3], {}).setdefault(path.parts[-2], {})
                    drawers[int(path.stem.split("_")[1])] = _drawing(archive.read(member))
    alphabets = {
        alphabet: np.stack([np.stack([drawn[d] for d in sorted(drawn)]) for _, drawn in sorted(characters.items())])
        for alphabet, characters in sorted(found.items())
    }
    assert len(alphabets) == 50, len(alphabets)
    assert all(array.shape[1:] == (DRAWERS, *SHAPE) for array in alphabets.values())
    return alphabets


def _drawing(content: bytes) -> Array:
    """A PNG of black ink on white as one sample."""
    with Image.open(io.BytesIO(content)) as image:
        small = image.convert("L").resize(SHAPE[1:], Image.Resampling.BOX)
    return 1 - np.asarray(small, dtype=np.float32)[None] / 255


def _drawings(alphabets: Sequence[Array], drawers: Sequence[int]) -> tuple[Array, Array]:
    """All characters of some alphabets by some drawers, 0 to 19: samples, and characters as indices over all these alphabets."""
    x = np.concatenate([alphabet[:, list(drawers)] for alphabet in alphabets])
    return x.reshape(-1, *SHAPE), np.repeat(np.arange(len(x)), len(drawers))
