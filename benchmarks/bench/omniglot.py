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

from isoform.runtime.errors import DataError
from isoform.runtime.spec import Array

__all__ = ["SHAPE", "drawings", "read_alphabets", "split_alphabets"]

ARCHIVES = ("omniglot/images_background.zip", "omniglot/images_evaluation.zip")
SHAPE = (1, 32, 32)
"""One sample: channels, height, width; drawn at 105×105."""
DRAWERS = 20

Alphabets = dict[str, Array]
"""Alphabet → drawings, shape (characters, drawers, *SHAPE), float32 in [0, 1], ink 1."""


def read_alphabets(data: Path) -> Alphabets:
    """Every drawing.

    Args:
        data: The folder of data sets, with ``omniglot`` in it.

    Raises:
        DataError: If it is not there.
    """
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


def split_alphabets(names: Sequence[str], third: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Two thirds of the alphabets to train on, and the third that is held out; over thirds 0, 1, 2 all are, once."""
    order = np.random.default_rng(0).permutation(sorted(names)).tolist()
    held = tuple(sorted(order[third::3]))
    return tuple(sorted(set(names) - set(held))), held


def drawings(alphabets: Mapping[str, Array], names: Sequence[str], drawers: Sequence[int]) -> tuple[Array, Array]:
    """All characters of some alphabets by some drawers, 0 to 19: samples, and characters as indices over all these alphabets."""
    x = np.concatenate([alphabets[name][:, list(drawers)] for name in names])
    return x.reshape(-1, *SHAPE), np.repeat(np.arange(len(x)), len(drawers))
