"""RoTTA: a class-balanced memory of samples, for streams of single samples and of one class after another.

The only method that stores samples: ``memory`` of them, in RAM, never on the disk; ``reset`` deletes them.

    statistics      s ← 0.95 s + 0.05 of the memory's samples                               robust BN
    memory          a sample is stored under its predicted class; a class may hold memory / C samples, or more while there is space;
                    the sample with the largest  1 / (1 + exp(-age / M)) + H / ln C  is evicted first; age in samples, M the memory's size
    every M samples  L = Σ aᵢ CE(teacher(xᵢ), student(shifted xᵢ)) / M,   aᵢ = exp(-ageᵢ / M) / (1 + exp(-ageᵢ / M))
    student ← Adam;   teacher ← 0.999 teacher + 0.001 student;   predictions are the teacher's

Source: Yuan et al. 2023, "Robust test-time adaptation in dynamic scenarios", sections 3.2 to 3.4, and its code for the numbers.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from isoform.runtime.adapt.losses import entropies
from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.adapt.methods.statistics import blended
from isoform.runtime.arrays import Array, softmax
from isoform.runtime.errors import UsageError
from isoform.runtime.learn.fits.adam import Adam
from isoform.runtime.learn.learner import AFFINE, STATISTICS, Point
from isoform.runtime.learn.samples import moved

__all__ = ["Rotta"]

FOLLOW = 0.05
TEACHER = 0.001
FEWEST = 8
"""Minimum number of samples in memory for a step."""
RATE = 1e-3
STATISTICS_ROWS, ROWS = 32, 16  # the paper uses all samples of the memory, which takes three times as long
"""Number of the memory's samples used for statistics, and in a gradient step."""


@dataclasses.dataclass(eq=False)
class _Kept:
    sample: Array
    label: int
    unsure: float
    """H / ln C."""
    age: int = 0


class Rotta(Method):
    """A balanced memory of samples, for one class after the other.

    ``memory`` is the number of stored samples.
    """

    moves = (AFFINE, STATISTICS)

    def __init__(self, context: Context, memory: int = 64) -> None:
        super().__init__(context)
        if not isinstance(memory, int) or not 8 <= memory <= 4096:
            raise UsageError(f"memory is {memory!r}, but a whole number from 8 to 4096 was expected")
        self._size = memory
        self.reset(context.start)

    def reset(self, point: Point) -> None:
        """Set the point; forget the stream and delete all stored samples."""
        self.point = point.owning(AFFINE)
        self._student = self.point
        self._adam = Adam({AFFINE: RATE})
        self._memory: list[_Kept] = []
        self._fresh = 0
        self._rng = np.random.default_rng(self.context.seed)

    def learn(self, x: Array, logits: Array) -> None:
        """Store the samples; take a step after every ``memory`` samples, at most one per batch."""
        p = softmax(logits)
        unsure = entropies(p) / math.log(max(2, self.context.classes))
        for sample, label, doubt in zip(x, p.argmax(axis=1), unsure, strict=True):
            self._file(_Kept(sample.copy(), int(label), float(doubt)))  # a copy: a view would keep the whole batch
        self._fresh += len(x)
        if self._fresh >= self._size and len(self._memory) >= FEWEST:
            self._fresh = 0
            self._step()

    def _file(self, new: _Kept) -> None:
        for kept in self._memory:
            kept.age += 1
        counts = np.bincount([kept.label for kept in self._memory], minlength=self.context.classes)
        # below its quota a class takes space from the largest class; at the quota it replaces one of its own samples
        if counts[new.label] < self._size / self.context.classes:
            if len(self._memory) < self._size:
                self._memory.append(new)
                return
            crowded = set(np.flatnonzero(counts == counts.max()).tolist())
        else:
            crowded = {new.label}
        worst = max((kept for kept in self._memory if kept.label in crowded), key=self._burden)
        if self._burden(worst) > self._burden(new):
            self._memory = [kept for kept in self._memory if kept is not worst]
            self._memory.append(new)

    def _burden(self, kept: _Kept) -> float:
        return 1 / (1 + math.exp(-kept.age / self._size)) + kept.unsure

    def _step(self) -> None:
        rows = [self._memory[i] for i in self._rng.permutation(len(self._memory))[:STATISTICS_ROWS]]
        x = np.stack([kept.sample for kept in rows])
        age = np.array([kept.age for kept in rows[:ROWS]]) / self._size
        weights = np.exp(-age) / (1 + np.exp(-age))
        learner = self.context.learner
        statistics, x = blended(learner, self.point, x, alpha=FOLLOW), x[:ROWS]
        teacher, student = (point.with_parts({STATISTICS: statistics}) for point in (self.point, self._student))
        target = softmax(learner.logits(teacher, x))

        def loss(logits: Array) -> tuple[float, Array]:
            p, share = softmax(logits), weights / len(x)
            value = -float(share @ (target * np.log(np.maximum(p, 1e-300))).sum(axis=1))
            return value, (share[:, None] * (p - target)).astype(np.float32)

        _, gradients = learner.gradient(student, moved(x, self._rng), loss, moving=(AFFINE,))
        affine = self._adam.step(student.parts, gradients)[AFFINE]
        self._student = student.with_parts({AFFINE: affine})
        own = teacher.parts[AFFINE].astype(np.float64)
        self.point = teacher.with_parts({AFFINE: own + TEACHER * (affine - own)})
