"""The recipe tables about data, the same for all kinds: one for all samples, and one per task."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from isoform.runtime.errors import RecipeError
from isoform.runtime.inputs import Reading, Sound
from isoform.train.fields import Between, Table, fields_of

__all__ = ["AugmentTable", "DataRecipe", "TaskRecipe"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRecipe(Table):
    """One task: a data set and the domain that is applied to it."""

    data: Literal["digits", "idx", "usps", "folder", "files"]
    """Format of the data set: embedded digits, IDX files (MNIST and the like), USPS files, or ``files``: whatever ``isoform personalize``
    reads, which is images, recordings in tables, sounds, and arrays in .npz files. ``folder`` is another name of ``files``."""
    path: str = ""
    """Folder of the files, below ``--data``, or a file for ``files``; empty for that folder itself. ``digits`` needs none."""
    domain: str = "plain"
    """How images are transformed, as if seen by another camera: ``plain`` for not at all, ``inverted``, ``blurred``, ``edges``, ``turned``, ``slanted``,
    ``thick`` or ``low_contrast``."""
    limit: Annotated[int, Between(0, 1e9)] = 0
    """Maximum number of training samples, drawn evenly over the classes; 0 for all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentTable(Table):
    """Random changes of every training sample (``train/batching/augment.py``); 0 for none."""

    flip: Annotated[float, Between(0, 1)] = 0.0
    """Images: probability of mirroring left and right."""
    turn: Annotated[float, Between(0, 180)] = 0.0
    """Images: largest rotation in degrees, in each direction."""
    zoom: Annotated[float, Between(0, 0.9)] = 0.0
    """Images: a part of at least 1 - ``zoom`` of both sides is enlarged to the whole, as random crops are."""
    colour: Annotated[float, Between(0, 1)] = 0.0
    """Images: largest change of brightness, contrast and saturation, as a share."""
    cutout: Annotated[float, Between(0, 0.9)] = 0.0
    """Images: sides of a rectangle that is cut out, as a share of the image's."""
    gain: Annotated[float, Between(0, 3)] = 0.0
    """Windows: deviation of the logarithm of a factor for every channel."""
    warp: Annotated[float, Between(0, 0.9)] = 0.0
    """Windows: largest change of the speed of time, as a share."""
    mask_time: Annotated[float, Between(0, 0.9)] = 0.0
    """Spectrograms: longest stretch of frames that is masked, as a share of all."""
    mask_bands: Annotated[float, Between(0, 0.9)] = 0.0
    """Spectrograms: widest stretch of bands that is masked, as a share of all."""
    noise: Annotated[float, Between(0, 3)] = 0.0
    """Deviation of normal noise, in units of each channel's deviation within the sample."""
    mixup: Annotated[float, Between(0, 10)] = 0.0
    """α of mixup, which mixes pairs of samples and their labels; 0.2 is usual."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRecipe(Table):
    """Shape, split and augmentation of all samples."""

    input_shape: Annotated[tuple[int, int, int], Between(1, 65536)] = (1, 32, 32)
    """Channels, height, width; images of another size are resized. Windows of recordings have height 1, and as many rows as the width;
    spectrograms 1 channel, a row per band and as many frames as the width; feature vectors height and width 1."""
    columns: tuple[str, ...] = ()
    """Names of the columns of recordings that are the channels, in order; empty for all that hold numbers other than times."""
    stride: Annotated[int, Between(0, 1 << 20)] = 0
    """Rows of a recording, or frames of a sound, between the beginnings of two windows; 0 for windows that follow each other."""
    sound: Sound | None = None
    """Rate, frames and bands of spectrograms, for data that are sounds."""
    test_fraction: Annotated[float, Between(0.01, 0.99)] = 0.25
    """Share held out for testing if a data set has no test split; ``split`` says what of."""
    split: Literal["auto", "samples", "groups"] = "auto"
    """What is held out: samples of every class, or whole groups, such as recordings or persons; ``auto``: groups if the data have any."""
    validation_fraction: Annotated[float, Between(0, 0.9)] = 0.0
    """Share of the training samples held out, stratified by class, to choose the best state by; 0 for none. Only kinds that do so use it."""
    split_seed: Annotated[int, Between(0, 2**31)] = 0
    """Seed of these splits; separate from ``seed``, so that runs with different seeds have the same test samples."""
    shift: Annotated[int, Between(0, 64)] = 2
    """Augmentation: largest shift of a batch in pixels, in each direction; edges are repeated."""
    augment: AugmentTable | None = None
    """Further augmentation, of every sample by itself."""

    def __post_init__(self) -> None:
        """Check the ranges, and that the samples are such as the augmentation changes."""
        super().__post_init__()
        _, height, width = self.input_shape
        what: str = "images"
        wrong: tuple[str, ...] = ()
        if self.sound is not None:
            what, wrong = "spectrograms", ("colour",)
        elif height == width == 1:
            what, wrong = (
                "feature vectors",
                tuple(name for name in fields_of(AugmentTable) if name not in ("gain", "mixup")),
            )
        elif height == 1:
            what, wrong = "windows of recordings", ("colour", "turn", "mask_bands")
        for name in wrong:
            if getattr(self.augment, name, 0):
                raise RecipeError(f"augment.{name} cannot change {what}; leave it out")

    @property
    def reading(self) -> Reading:
        """How samples are read, as far as the recipe says it."""
        return Reading(columns=self.columns or None, stride=self.stride or None, sound=self.sound)
