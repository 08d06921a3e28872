"""Batches as a pure function of (seed, task, step), so that a checkpoint need not store a position or random state.

Each epoch of a task is a permutation drawn from (seed, task, epoch). A batch is a slice of the epochs laid end to end. Augmentation
shifts a whole batch by a few pixels, drawn from (seed, task, step), and repeats the edges.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from isoform.runtime.arrays import Array
from isoform.runtime.errors import RecipeError
from isoform.train.batching.augment import augmented
from isoform.train.batching.stream import Stream
from isoform.train.data.pictures import Pictures
from isoform.train.data.recipe import AugmentTable
from isoform.train.data.samples import Split
from isoform.train.parallel.reduced import part

__all__ = ["Batches"]


class Batches:
    """The training samples of one task.

    Args:
        split: The training half.
        batch: Samples per step.
        shift: Largest shift in pixels, in each direction.
        seed: The run's seed.
        task: Index of the task, so that tasks see different orders.
        steps: Number of steps of the run, up to which images on disk are decoded ahead.
        workers: Processes that decode them.
        augment: Further changes of every sample.
        classes: Number of classes; only needed for mixup.
        device: Where batches are to be.

    Raises:
        RecipeError: If samples are to be changed which are no grids of numbers.
    """

    def __init__(
        self, split: Split, *, batch: int, shift: int, seed: int, task: int, steps: int = 0, workers: int = 0,
        augment: AugmentTable | None = None, classes: int = 0, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self._images: Array | Stream
        if isinstance(split.images, Pictures):
            self._images = Stream(split.images, self._read, steps=steps, workers=workers)
        else:
            self._images = split.images
        self._labels = torch.from_numpy(split.labels)
        if augment is not None and (split.images.ndim != 4 or split.images.dtype != np.float32):
            raise RecipeError(
                f"data.augment is for images, windows and spectrograms, but samples are {split.images.dtype} of shape {split.images.shape[1:]}; leave it out"
            )
        self._augment, self._classes, self._device = augment, classes, device
        self._batch, self._shift, self._key = batch, shift, (seed, task)
        # Two epochs, because a batch may begin in one and end in the next.
        self._epoch = functools.lru_cache(maxsize=2)(self._permutation)

    @property
    def waited(self) -> float:
        """Seconds that were spent on waiting for images to be decoded."""
        return self._images.waited if isinstance(self._images, Stream) else 0.0

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return one step's images, shape (batch, channels, height, width), float32, and labels, shape (batch,), int64.

        With mixup, labels are probabilities, shape (batch, classes), float32. Of several processes each gets its own part of them.
        """
        images, labels = self._changed(step)
        if self._augment is not None:  # which draws for a whole batch, and mixes its samples
            images, labels = part(images), part(labels)
        return images.to(self._device), labels.to(self._device)

    def close(self) -> None:
        """End the processes that decode images."""
        if isinstance(self._images, Stream):
            self._images.close()

    def _changed(self, step: int) -> tuple[Tensor, Tensor]:
        """Shift and change a step's samples."""
        rows = self._read(step)
        images = self._images[step] if isinstance(self._images, Stream) else torch.from_numpy(self._images[rows])
        labels = self._labels[rows]
        if self._shift:
            images = self._shifted(images, step)
        if self._augment is None:
            return images, labels
        seed = int(np.random.SeedSequence((*self._key, 2, step)).generate_state(1, np.uint64)[0] >> 1)
        draws = torch.Generator().manual_seed(seed)
        return augmented(images, labels, self._augment, classes=self._classes, draws=draws)

    def _shifted(self, images: Tensor, step: int) -> Tensor:
        # The 1 in the key keeps these draws apart from those of the permutations, which have 0.
        down, right = np.random.default_rng((*self._key, 1, step)).integers(0, 2 * self._shift + 1, 2)
        height, width = images.shape[2:]
        # One shift for the whole batch is a slice; one per sample would be a copy each.
        padded = F.pad(images, (self._shift,) * 4, mode="replicate")
        return padded[:, :, down : down + height, right : right + width]

    def _read(self, step: int) -> Array:
        """Return the rows of a step that this process needs: its own, or all of them to augment."""
        rows = self._rows(step)
        return rows if self._augment is not None else part(rows)

    def _rows(self, step: int) -> np.ndarray:
        size = len(self._labels)
        places = np.arange(step * self._batch, (step + 1) * self._batch)
        return np.concatenate(
            [self._epoch(int(e))[places[places // size == e] % size] for e in np.unique(places // size)]
        )

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((*self._key, 0, epoch)).permutation(len(self._labels))
