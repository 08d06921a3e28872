"""Verify engines on the GPU that they were built for: each way to run a graph, beside ONNX Runtime, on the tasks' test samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from isoform.compile.export.comparison import Comparison, compare
from isoform.compile.kind import Task
from isoform.compile.tensorrt.check import LIMIT
from isoform.runtime.arrays import Array
from isoform.runtime.batches import slices
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.tensorrt.form import MANY, TASK
from isoform.runtime.engines.tensorrt.opened import KERNEL, KernelLoader, Loader, OpenGraph
from isoform.runtime.engines.tensorrt.runner import Runner
from isoform.runtime.errors import EngineError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.samples import spaced

__all__ = ["measure_on_device"]

SAMPLES = 1024
"""Test samples of a task, at most."""
CACHE_BYTES = 64 << 20


def measure_on_device(
    bundle: Bundle, tasks: Sequence[Task], device: Any, load: Loader, load_kernel: KernelLoader, *, precision: str, max_drop_points: float
) -> dict[str, Any]:  # fmt: skip
    """Run the engines of every graph; return what to report: the GPU, and for each task and way its gap, agreement and accuracy.

    Args:
        bundle: A bundle whose compiled part has forms and engines.
        tasks: Its tasks.
        device: The GPU.
        load: Loads engines.
        load_kernel: Loads kernels.
        precision: That of the target; in ``fp32`` answers must agree within ``LIMIT`` of the largest logit.
        max_drop_points: Points of accuracy (percent) that a way may cost a task.

    Raises:
        CompileError: If an engine computes something else.
        EngineError: If one cannot be run.
    """
    compiled, found = bundle.require_compiled(), dict[str, dict[str, Comparison]]()
    with device.current():
        for name in {task.graph: None for task in tasks}:
            able = [task for task in tasks if task.graph == name]
            bases = {task.signature.digest: (task.name, len(task.labels)) for task in able}
            opened = OpenGraph(
                device, compiled, name, bundle.network.graph(name), load, load_kernel, bases=bases, cache_bytes=CACHE_BYTES
            )  # fmt: skip
            try:
                for way, reason in opened.left_out.items():
                    if way != KERNEL:  # which runs where it fits, and is not in every bundle
                        raise EngineError(f"TensorRT's {way} of {name} cannot be verified: {reason}")
                for task in able:
                    found[task.name] = _task(bundle, task, able, opened, compiled.graphs[name])
            finally:
                opened.close()
    for name, ways in found.items():
        for way, answers in ways.items():
            if precision == "fp32":
                answers.check_gap(LIMIT, f"task {name!r}: TensorRT's {way}", "ONNX Runtime")
            answers.check_drop(
                max_drop_points, f"task {name!r}: TensorRT's {way}", "build in another precision, or raise --max-drop"
            )
    told = {name: {way: answers.to_json() for way, answers in ways.items()} for name, ways in found.items()}
    return {"device": device.title, "tasks": told}


def _task(bundle: Bundle, task: Task, others: Sequence[Task], opened: OpenGraph, file: bytes) -> dict[str, Comparison]:
    """Measure one task, every way."""
    graph = bundle.network.graph(task.graph)
    session = portable_session(file, {name: task.weights[name] for name in graph.weights}, threads=1)
    x, labels = spaced(task.test.images, SAMPLES), spaced(task.test.labels, SAMPLES)
    head = {name: task.weights[name] for name in HEAD}
    expected = np.concatenate(
        [session.run(["logits"], {graph.input.name: x[place], **head})[0] for place in slices(len(x), 64)]
    )
    ways: dict[str, Callable[[Array], Array]] = {}
    makes: dict[str, Callable[[], Array]] = {
        other.signature.digest: lambda other=other: opened.vector_of(other.parts)  # type: ignore[misc]
        for other in [task, *others][: min(opened.rows.count, 1 + len(others))]
    }
    rows = opened.rows.rows(makes)
    for way, runner in opened.runners.items():
        ways[way] = _mixed(runner, rows) if way in (MANY, KERNEL) else _single(runner, rows[0])
    if task.signature.digest in opened.own:
        ways[TASK] = _single(opened.own[task.signature.digest][0], 0)
    return {way: compare(run(x)[:, : len(task.labels)], expected, labels) for way, run in ways.items()}


def _single(runner: Runner, row: int) -> Callable[[Array], Array]:
    def run(x: Array) -> Array:
        parts = [
            runner.run(x[place], np.full(place.stop - place.start, row, dtype=np.int32))
            for place in slices(len(x), runner.largest)
        ]
        return np.concatenate(parts)

    return run


def _mixed(runner: Runner, rows: Sequence[int]) -> Callable[[Array], Array]:
    """Run every sample beside one of another task's user, in one batch."""
    if runner.largest == 1:  # there is no room for another one
        return _single(runner, rows[0])

    def run(x: Array) -> Array:
        parts = []
        for place in slices(len(x), runner.largest // 2):
            some = x[place]
            users = np.full(2 * len(some), rows[0], dtype=np.int32)
            users[1::2] = np.resize(np.asarray(rows, dtype=np.int32), len(some))
            parts.append(runner.run(np.repeat(some, 2, axis=0), users)[::2])
        return np.concatenate(parts)

    return run
