"""Omniglot's alphabets as tasks: the twenty of Gumbel-Matrix and earlier work, split 50/20/30, and others for new tasks.

Of every character's 20 drawings 10 are to train on, 4 to choose the best state by, and 6 to test on, drawn by a seed of the alphabet's own.
Order of the alphabets: ``get_omniglot_order`` of google-research/learning_parameter_allocation, the same as in several earlier works.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from isoform.runtime.arrays import Array
from isoform.train.data.samples import Dataset, Split

__all__ = ["NEW", "TWENTY", "alphabets"]

TWENTY = (
    "Gujarati", "Sylheti", "Arcadian", "Tibetan", "Old_Church_Slavonic_(Cyrillic)", "Angelic", "Malay_(Jawi_-_Arabic)", "Sanskrit",
    "Cyrillic", "Anglo-Saxon_Futhorc", "Syriac_(Estrangelo)", "Ge_ez", "Japanese_(katakana)", "Keble", "Manipuri",
    "Alphabet_of_the_Magi", "Gurmukhi", "Korean", "Early_Aramaic", "Atemayar_Qelisayer",
)  # fmt: skip
"""The alphabets that networks are trained on."""
NEW = (
    "Tagalog", "Mkhedruli_(Georgian)", "Inuktitut_(Canadian_Aboriginal_Syllabics)", "Tengwar", "Hebrew", "N_Ko", "Grantha", "Latin",
)  # fmt: skip
"""Alphabets that come next in that order, which no network has seen."""
ARCHIVES = ("omniglot/images_background.zip", "omniglot/images_evaluation.zip")
PARTS = (10, 4, 6)
"""Drawings of each character to train on, to validate and to test."""


def alphabets(data: Path, names: Sequence[str], pixels: int) -> dict[str, Dataset]:
    """Read alphabets: name as a task's → data set, images (n, 1, pixels, pixels), ink 1.

    Args:
        data: Folder of the data sets.
        names: Names of the archives' folders.
        pixels: Side of the images, of 105 pixels in the archives; each is a mean over an area.
    """
    drawn = _drawings(data, set(names), pixels)
    return {_task(name): _split(drawn[name], seed) for seed, name in enumerate(names)}


def _task(name: str) -> str:
    return "".join(letter for letter in name if letter.isalnum() or letter in "_-")


def _split(characters: dict[str, Array], seed: int) -> Dataset:
    rng = np.random.default_rng((11, seed))
    images, labels = [list[Array]() for _ in PARTS], [list[int]() for _ in PARTS]
    for label, (_, drawings) in enumerate(sorted(characters.items())):
        order, start = rng.permutation(len(drawings)), 0
        for part, count in enumerate(PARTS):
            images[part].append(drawings[order[start : start + count]])
            labels[part].extend([label] * count)
            start += count
    train, validation, test = (
        Split(images=np.concatenate(some), labels=np.array(named)) for some, named in zip(images, labels, strict=True)
    )
    return Dataset(train=train, validation=validation, test=test, classes=tuple(sorted(characters)))


def _drawings(data: Path, names: set[str], pixels: int) -> dict[str, dict[str, Array]]:
    """Alphabet → character → drawings, shape (20, 1, pixels, pixels)."""
    found: dict[str, dict[str, list[Array]]] = {}
    for name in ARCHIVES:
        with zipfile.ZipFile(data / name) as archive:
            for member in sorted(archive.namelist()):
                path = Path(member)
                if path.suffix == ".png" and path.parts[-3] in names:
                    with Image.open(io.BytesIO(archive.read(member))) as image:
                        small = image.convert("L").resize((pixels, pixels), Image.Resampling.BOX)
                    ink = 1 - np.asarray(small, dtype=np.float32)[None] / 255
                    found.setdefault(path.parts[-3], {}).setdefault(path.parts[-2], []).append(ink)
    return {name: {label: np.stack(some) for label, some in characters.items()} for name, characters in found.items()}
