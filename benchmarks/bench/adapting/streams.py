"""Streams of unlabelled samples, every way to meet them, and what it gets right.

Settings: ``iid B`` batches of B in a random order; ``sorted B`` one class after the other; ``continual B`` one domain after the other;
``mixed B`` all domains in every batch; ``long B`` the same 1,000 samples again and again, each time in another order (the recurring
stream of Hoang et al. 2024, "PeTTA"), so that what changes over time is what adapting did; ``fresh B`` the same, corrupted anew every
time, so that 1,000 samples differ from the next 1,000 by chance too; ``first B`` a start that meets B samples and nothing more, and is
tested on others, ``DRAWS`` times; ``blank B`` frames without content, of the kind that the domain
names, and then clean samples, which alone count. Ways: ``none``, a method of the runtime, or ``torch tent`` with
its rate.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.adapting.corruptions import CORRUPTIONS
from bench.adapting.shifted import Shifted
from bench.adapting.tent_rival import TorchTent
from bench.processes import pool
from isoform.runtime import Runtime
from isoform.runtime.arrays import Array
from isoform.runtime.formats.signature import Signature

__all__ = ["BLANK", "RATES", "Result", "Task", "measure"]

RATES = (1e-3, 3e-3, 1e-2)
"""Of torch's Tent: the authors', and two more that it may choose from afterwards, by the labels that nobody has."""

BLANK = ("black", "white", "grey", "sensor noise", "uniform noise", "one frame", "gradients", "vignette")
"""What a covered lens, an overexposed, a broken or a stuck camera and an empty wall send."""
BLANK_FRAMES = 64
DRAWS = 8


@dataclasses.dataclass(frozen=True)
class Task:
    """One stream, met in one way."""

    data: str
    setting: str
    domain: str
    """``all`` for settings that have every corruption in them."""
    way: str
    samples: int
    """Of each domain."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of it."""

    task: Task
    right: tuple[bool, ...]
    """Sample by sample, in the order of the stream."""
    events: dict[str, int]

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * float(np.mean(self.right))


_worlds: dict[str, tuple[Shifted, Path]] = {}


def measure(worlds: dict[str, tuple[Shifted, Path]], tasks: Sequence[Task]) -> Iterator[Result]:
    """Results in the order of the tasks, by two processes of one thread each; ``worlds`` are data sets and the bundles trained on them."""
    global _worlds
    _worlds = worlds
    with pool(2, start="fork") as workers:  # the samples are there already
        yield from workers.map(_one, tasks)


@functools.lru_cache(maxsize=4)
def _runtime(path: str) -> Runtime:
    return Runtime.open(path)


@functools.lru_cache(maxsize=4)
def _stream(data: str, setting: str, domain: str, samples: int) -> tuple[Array, Array]:
    world, kind = _worlds[data][0], setting.split()[0]
    if kind == "blank":
        return _after_blank(world, domain, samples)
    if kind in ("long", "fresh"):
        return _long(world, domain, samples, fresh=kind == "fresh")
    if domain != "all":
        x, labels = world.stream(domain, samples)
        order = np.argsort(labels, kind="stable") if kind == "sorted" else np.arange(len(labels))
        return x[order], labels[order]
    parts = [world.stream(name, samples, first=samples * place) for place, name in enumerate(CORRUPTIONS)]
    x, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    order = np.random.default_rng(0).permutation(len(x)) if kind == "mixed" else np.arange(len(x))
    return x[order], labels[order]


def _long(world: Shifted, domain: str, samples: int, *, fresh: bool) -> tuple[Array, Array]:
    """1,000 samples at a time."""
    turns = range(samples // 1000)
    parts = [world.stream(domain, 1000, seed=turn if fresh else 0) for turn in turns]
    orders = [np.random.default_rng(turn).permutation(1000) for turn in turns]
    return tuple(np.concatenate([part[i][order] for part, order in zip(parts, orders, strict=True)]) for i in (0, 1))  # type: ignore[return-value]


def _after_blank(world: Shifted, kind: str, samples: int) -> tuple[Array, Array]:
    """``BLANK_FRAMES`` frames, whose labels are -1, and clean samples."""
    rng, shape = np.random.default_rng(0), (BLANK_FRAMES, *world.shape)
    x, labels = world.stream("clean", samples + 1)
    down, across = np.mgrid[-1 : 1 : shape[2] * 1j, -1 : 1 : shape[3] * 1j]
    turns = rng.uniform(0, 2 * np.pi, (BLANK_FRAMES, 1, 1, 1))
    frames = {
        "black": lambda: np.zeros(shape), "white": lambda: np.ones(shape), "grey": lambda: np.full(shape, 0.5),
        "sensor noise": lambda: np.clip(rng.normal(0, 0.02, shape), 0, 1), "uniform noise": lambda: rng.uniform(size=shape),
        "one frame": lambda: np.repeat(x[samples:], BLANK_FRAMES, axis=0),
        "gradients": lambda: 0.5 + 0.2 * (np.cos(turns) * across + np.sin(turns) * down) + np.zeros(shape),
        "vignette": lambda: 0.9 - 0.2 * (across**2 + down**2) + rng.normal(0, 0.02, shape),
    }[kind]()  # fmt: skip
    x = np.concatenate([frames.astype(np.float32), x[:samples]])
    return x, np.concatenate([np.full(BLANK_FRAMES, -1), labels[:samples]])


def _after_few(runtime: Runtime, base: Signature, task: Task, x: Array, labels: Array, batch: int) -> tuple[bool, ...]:
    """The first ``DRAWS`` · B samples to adapt to, B each time; all others to test on."""
    test, expected = x[DRAWS * batch :], labels[DRAWS * batch :]
    right = []
    for draw in range(1 if task.way == "none" else DRAWS):
        signature = base
        if task.way != "none":
            with runtime.adapter(base, method=task.way, keep=1) as adapter:
                adapter(x[draw * batch : (draw + 1) * batch])
                signature = adapter.signature
        found = [runtime.predict(test[i : i + 128], signature) for i in range(0, len(test), 128)]
        right.append(np.concatenate(found).argmax(axis=1) == expected)
    return tuple(np.concatenate(right).tolist())


def _one(task: Task) -> Result:
    world, path = _worlds[task.data]
    x, labels = _stream(task.data, task.setting, task.domain, task.samples)
    batch, runtime = int(task.setting.split()[1]), _runtime(str(path))
    base, events = runtime.signature(world.name), dict[str, int]()
    if task.setting.startswith("first"):
        return Result(task, _after_few(runtime, base, task, x, labels, batch), events)
    if task.way == "none":
        found = [runtime.predict(x[i : i + 128], base) for i in range(0, len(x), 128)]
    elif task.way.startswith("torch tent"):
        tent = TorchTent(runtime.bundle, world.name, lr=float(task.way.split()[2]))
        found = [tent(x[i : i + batch]) for i in range(0, len(x), batch)]
    else:
        name, _, parts = task.way.partition(" ")
        options = {"parts": tuple(parts.split("+"))} if parts else {}
        adapter = runtime.adapter(base, method=name, keep=1, **options)
        found = [adapter(x[i : i + batch]) for i in range(0, len(x), batch)]
        for record in adapter.history:
            events[record.event] = events.get(record.event, 0) + 1
    right = np.concatenate(found).argmax(axis=1) == labels
    return Result(task, tuple(right[labels >= 0].tolist()), events)
