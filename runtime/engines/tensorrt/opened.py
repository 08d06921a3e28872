"""A graph on the device: the users' table, and what runs it: a TensorRT engine per form, one per task, and the kind's own kernel.

Where several can run a batch, they are timed once per power of two of its size, and the fastest one is used. A task's own engine in
int8 is used always: which answers a signature gets must not depend on a clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.gathered import GatheredFold
from isoform.runtime.engines.tensorrt.form import (
    MANY,
    ONE,
    PRECISIONS,
    TASK,
    TASK_PRECISIONS,
    UserVector,
    form_file,
    vector_file,
)
from isoform.runtime.engines.tensorrt.rows import Rows
from isoform.runtime.engines.tensorrt.runner import Buffers, Form, Runner
from isoform.runtime.errors import EngineError, IsoformError, MissingExtraError
from isoform.runtime.formats.compiled import Compiled
from isoform.runtime.kind import HEAD, Folder, Graph, Kernel

__all__ = ["KERNEL", "OpenGraph"]

log = logging.getLogger("isoform.runtime")
KERNEL = "kernel"
"""What runs a graph besides the forms ``ONE`` and ``MANY``."""
Loader = Callable[[str, str, UserVector, str, Graph], tuple[Form, int]]
"""Name of the graph or task, form, vector, precision, graph → its engine, and the largest batch."""
KernelLoader = Callable[[Kernel, str], tuple[Form, int]]
"""Kernel, name of the input of samples → the kernel on the device, and the largest batch."""
RUNS = 5
"""Runs that are timed, of each way; the fastest counts."""


class OpenGraph:
    """A graph on the device.

    Args:
        device: The device.
        compiled: The bundle's compiled part.
        name: The graph's name.
        graph: The graph.
        load: Loads an engine.
        load_kernel: Loads a kernel.
        bases: Digest → task and number of classes, of the base signatures that run on this graph.
        cache_bytes: Size of the table of users.

    Raises:
        EngineError: If the bundle has no forms of the graph, they are not those of this network, or nothing can run it.
        MissingExtraError: If nothing can run it because neither product is installed.
    """

    def __init__(
        self, device: Any, compiled: Compiled, name: str, graph: Graph, load: Loader, load_kernel: KernelLoader, *,
        bases: Mapping[str, tuple[str, int]], cache_bytes: int,
    ) -> None:  # fmt: skip
        listed = compiled.manifest["files"]
        if vector_file(name) not in listed:
            raise EngineError(
                f"{compiled.path} has no graphs for TensorRT; run 'isoform compile {compiled.path.parent} --target tensorrt'"
            )
        self.vector = UserVector.decode(compiled.read(vector_file(name)), name=vector_file(name))
        self._changing = [name for name in graph.weights if name not in graph.constants]
        if {name: graph.weights[name] for name in self._changing} != {
            name: shape for name, shape in self.vector.shapes.items() if name not in HEAD
        }:
            raise EngineError(
                f"{compiled.path} has graphs for TensorRT of another network; run 'isoform compile' again"
            )
        precision = next((some for some in PRECISIONS if form_file(name, ONE, some) in listed), "")
        if not precision:
            raise EngineError(
                f"{compiled.path} has a vector but no form of graph {name!r}; run 'isoform compile' again"
            )
        half = precision == "fp16"
        largest = self.vector.most_users * self.vector.size * (2 if half else 4)
        self.rows = Rows(device, size=self.vector.size, half=half, limit_bytes=min(cache_bytes, largest))
        self._buffers = Buffers(device, graph.input, classes=self.vector.classes)
        self.runners: dict[str, Runner] = {}
        """By form, or ``KERNEL``."""
        self.own: dict[str, tuple[Runner, str]] = {}
        """Digest of a task's base signature → its own engine, and its precision."""
        self.left_out: dict[str, str] = {}
        """Form, ``KERNEL``, or name of a task with an engine of its own, that cannot be used here → why."""
        self._faster: dict[tuple[int, str], Runner] = {}
        self._fold: Folder = graph.folder(self.vector.private) or GatheredFold(graph, self.vector.private)
        try:
            self._open(device, compiled, name, graph, load, load_kernel, precision, bases)
        except BaseException:  # memory of the GPU is freed whatever happened
            self.close()
            raise

    def _open(
        self, device: Any, compiled: Compiled, name: str, graph: Graph, load: Loader, load_kernel: KernelLoader, precision: str,
        bases: Mapping[str, tuple[str, int]],
    ) -> None:  # fmt: skip
        """Load what runs the graph."""
        listed, half = compiled.manifest["files"], precision == "fp16"

        def runner(form: str, loaded: Form, batch: int, *, classes: int = self.vector.classes) -> Runner:
            return Runner(
                device, loaded, form, vector=self.vector, classes=classes, takes=graph.input, rows=self.rows, buffers=self._buffers, half=half,
                largest=batch,
            )  # fmt: skip

        kernel = graph.kernel(self.vector.places, row=self.vector.size, half=half)
        if kernel is not None:
            try:
                self.runners[KERNEL] = runner(MANY, *load_kernel(kernel, graph.input.name))
            except (EngineError, MissingExtraError) as problem:
                self._leave(KERNEL, problem)
        for form in (ONE, MANY):
            if form_file(name, form, precision) in listed:
                try:
                    self.runners[form] = runner(form, *load(name, form, self.vector, precision, graph))
                except (EngineError, MissingExtraError) as problem:
                    if KERNEL not in self.runners:
                        raise
                    self._leave(form, problem)
        for digest, (task, classes) in bases.items():
            found = next((some for some in TASK_PRECISIONS if form_file(task, TASK, some) in listed), None)
            if found is not None:
                try:
                    loaded = load(task, TASK, self.vector, found, graph)
                except (EngineError, MissingExtraError) as problem:
                    self._leave(task, problem)
                    continue
                self.own[digest] = runner(TASK, *loaded, classes=classes), found

    def _leave(self, what: str, problem: IsoformError) -> None:
        log.info("%s is not used: %s", what, problem)
        self.left_out[what] = str(problem)

    @property
    def mixes(self) -> bool:
        """Whether a batch may hold samples of several users."""
        return not {MANY, KERNEL}.isdisjoint(self.runners)

    @property
    def largest(self) -> int:
        """The largest batch that everything takes."""
        return min(runner.largest for runner in (*self.runners.values(), *(own for own, _ in self.own.values())))

    def alone(self, digest: str) -> bool:
        """Whether a signature's samples are always run by its task's own engine, and so not in a batch with others."""
        return digest in self.own and self.own[digest][1] == "int8"

    def runner(self, count: int, users: Collection[str]) -> Runner:
        """Return what runs a batch of a size fastest for some users, by the digests of their signatures."""
        mixed = len(users) > 1
        able = [self.runners[way] for way in (MANY if mixed else ONE, KERNEL) if way in self.runners]
        able = able or [*self.runners.values()]
        digest = "" if mixed else next(iter(users))
        if digest in self.own:
            own = self.own[digest][0]
            if self.alone(digest):
                return own
            able.append(own)
        if len(able) == 1:
            return able[0]
        key = count.bit_length(), digest if digest in self.own else MANY if mixed else ONE
        if key not in self._faster:
            self._faster[key] = min(able, key=lambda runner: _seconds(runner, count))
        return self._faster[key]

    @property
    def chosen(self) -> dict[tuple[int, str], str]:
        """What was the fastest, by number of binary digits of the batch size, and ``ONE`` or ``MANY`` users or the digest of a base signature."""
        names = {id(runner): way for way, runner in self.runners.items()}
        names |= {id(runner): TASK for runner, _ in self.own.values()}
        return {key: names[id(runner)] for key, runner in self._faster.items()}

    def vector_of(self, parts: Mapping[str, Array]) -> Array:
        """Fold a user's parts into a vector, shape (M,), float32."""
        result = np.zeros(self.vector.size, dtype=np.float32)
        if self._changing:
            fold = self._fold
            with np.errstate(
                over="ignore", invalid="ignore"
            ):  # logits that are not finite are reported by the predictor
                fold.fill(fold.read(parts), fold.group(parts), result[: self.vector.head_start])
        self.vector.fill_head({name: parts[name] for name in HEAD}, result)
        return result

    def close(self) -> None:
        """Free everything on the device."""
        for runner in (*self.runners.values(), *(own for own, _ in self.own.values())):
            runner.close()
        self._buffers.close()
        self.rows.close()


def _seconds(runner: Runner, count: int) -> float:
    """Time a batch; the first run of a size, in which it is captured, does not count."""
    x, rows = runner.blank(count), np.zeros(count, dtype=np.int32)
    found = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        runner.run(x, rows)
        found.append(time.perf_counter() - started)
    return min(found[1:])
