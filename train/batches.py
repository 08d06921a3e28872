"""Batches as a pure function of (seed, task, step): nothing to store, nothing to restore.

Each epoch of a task is a permutation drawn from (seed, task, epoch). A batch is cut from the endless row of epochs. Augmentation
moves a whole batch by a few pixels, drawn from (seed, task, step), and repeats the edges.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from isoform.train.data.samples import Split

__all__ = ["Batches"]


class Batches:
    """The training samples of one task.

    Args:
        split: The training half.
        batch: Samples per step.
        shift: Largest move in pixels.
        seed: The run's seed.
        task: Index of the task, so that tasks see different orders.
    """

    def __init__(self, split: Split, *, batch: int, shift: int, seed: int, task: int) -> None:
        self._images = torch.from_numpy(split.images)
        self._labels = torch.from_numpy(split.labels)
        self._batch, self._shift, self._key = batch, shift, (seed, task)
        self._epoch = functools.lru_cache(maxsize=2)(self._permutation)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images, shape (batch, channels, height, width), float32, and labels, shape (batch,), int64, of one step."""
        size = len(self._labels)
        places = np.arange(step * self._batch, (step + 1) * self._batch)
        rows = np.concatenate(
            [self._epoch(int(e))[places[places // size == e] % size] for e in np.unique(places // size)]
        )
        images, labels = self._images[torch.from_numpy(rows)], self._labels[torch.from_numpy(rows)]
        if not self._shift:
            return images, labels
        down, right = np.random.default_rng((*self._key, 1, step)).integers(0, 2 * self._shift + 1, 2)
        height, width = images.shape[2:]
        padded = F.pad(images, (self._shift,) * 4, mode="replicate")
        return padded[:, :, down : down + height, right : right + width], labels

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((*self._key, 0, epoch)).permutation(len(self._labels))
