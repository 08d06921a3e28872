"""Verify a compilation: torch, the numpy twin and ONNX Runtime must agree on real samples, and snapping must not cost accuracy.

parity      largest |difference| of logits over up to 256 test samples, snapped signature, every layout
top-1       accuracy on all test samples: torch with the trained signature (before), ONNX Runtime with the snapped one
            (after), and with its float16 file
latency     median time of one sample on one thread; layouts are timed in turn, so that noise of the machine affects all alike
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isoform.compile.kind import Exporter, Learning, Task
from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.session import open_session, ort, session_options
from isoform.runtime.errors import CompileError, SignatureError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kind import HEAD, Graph

__all__ = ["Measured", "check", "latencies", "measure"]

PARITY_SAMPLES = 256
PARITY_LIMIT = 1e-4
"""Largest accepted difference of logits. Beyond logits of ``PARITY_SCALE`` it grows in proportion to them."""
PARITY_SCALE = 64.0
"""float32 has about 7 digits: sums of this size may differ by about the limit when they are added in another order."""
GRADIENT_LIMIT = 1e-4
"""Largest accepted difference of gradients, relative to the part's largest gradient."""
LATENCY_RUNS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurements of one task."""

    samples: int
    """Test samples behind the top-1 figures."""
    parity_samples: int
    gaps: Mapping[str, float]
    """Largest |difference| of logits: ``torch_<layout>`` and ``torch_portable`` between the torch network and ONNX Runtime, and
    ``numpy_fast`` between the numpy twin and the fast layout. A kind without a torch network has ``numpy_<layout>`` instead."""
    gradient: float | None
    """``Learning.gradient_gap``; None if there are no graphs for learning."""
    top1_before: float
    """Accuracy of the trained signature in torch, 0 to 1."""
    top1_after: float
    """Accuracy of the snapped signature, fast layout, 0 to 1."""
    top1_float16: float | None
    """Accuracy of the snapped signature read from its float16 file, 0 to 1; None if a number is too large for float16."""
    largest_logit: float
    """Largest |logit| of the parity samples."""
    latency_ms: Mapping[str, float]
    """Layout → median milliseconds of one sample."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields for the report, as JSON types."""
        fields = {name: value for name, value in vars(self).items() if name not in ("gaps", "latency_ms")}
        return {**fields, **self.gaps, **{f"latency_{name}_ms": value for name, value in self.latency_ms.items()}}


def measure(
    bundle: Bundle, task: Task, exporter: Exporter, *, layouts: Mapping[str, bytes], file: bytes, learning: Learning | None
) -> Measured:  # fmt: skip
    """Run one task in every layout and compare the results.

    Args:
        bundle: Templates and trained signatures.
        task: The task.
        exporter: The exporter of its kind.
        layouts: As returned by ``Exporter.layouts``.
        file: The task's graph without weights, an ONNX file.
        learning: As returned by ``Exporter.learning``.
    """
    network, graph, test = bundle.network, bundle.network.graph(task.graph), task.test
    runners = {
        name: _runner(open_session(layout, session_options(1), what=f"the {name} layout"), graph) for name, layout in layouts.items()
    }  # fmt: skip
    x = np.ascontiguousarray(test.images[_spread(len(test.images), PARITY_SAMPLES)])
    by_numpy, by_trained = network.reference(task.name, task.parts, x), exporter.trained(bundle, task.signature)
    who, expected = ("numpy", by_numpy) if by_trained is None else ("torch", by_trained(x))
    logits = {name: run(x) for name, run in runners.items()}
    after = runners["fast"](test.images)
    # what was not snapped, and has no torch network, would take the twin minutes to say again
    same = by_trained is None and task.trained.digest == task.signature.digest
    found = {**logits, "portable": _weightless_runner(file, graph, task.weights)(x)}
    return Measured(
        samples=len(test.labels), parity_samples=len(x),
        gaps={"numpy_fast": _gap(by_numpy, logits["fast"]), **{f"{who}_{name}": _gap(expected, some) for name, some in found.items()}},
        gradient=None if learning is None else learning.gradient_gap(task),
        top1_before=_top1(after if same else _before(bundle, task, exporter), test.labels),
        top1_after=_top1(after, test.labels),
        top1_float16=_float16(bundle, task, file),
        largest_logit=float(np.abs(expected).max()),
        latency_ms=latencies({name: functools.partial(run, x[:1]) for name, run in runners.items()}),
    )  # fmt: skip


def _before(bundle: Bundle, task: Task, exporter: Exporter) -> Array:
    """Compute the logits of the test samples with the trained signature, before snapping."""
    run, x = exporter.trained(bundle, task.trained), task.test.images
    return bundle.network.reference(task.name, bundle.resolve(task.trained).parts, x) if run is None else run(x)


def check(measured: Mapping[str, Measured], *, max_drop_points: float) -> None:
    """Raise an error if a compilation does not compute the trained network.

    Raises:
        CompileError: If a task's logits differ by more than ``PARITY_LIMIT`` (scaled by ``PARITY_SCALE``), its gradients by
            more than ``GRADIENT_LIMIT``, or its accuracy fell by more than ``max_drop_points``.
    """
    for task, figures in measured.items():
        for name, gap in figures.gaps.items():
            limit = PARITY_LIMIT * max(1.0, figures.largest_logit / PARITY_SCALE)
            # "not <=" instead of ">": a comparison with NaN is false, and NaN has to fail.
            if not gap <= limit < math.inf:
                raise CompileError(
                    f"task {task!r}: logits differ by {gap:.1e} ({name}), but at most {limit:.1e} was expected; nothing was written, please report this"
                )
        if figures.gradient is not None and not figures.gradient <= GRADIENT_LIMIT:
            raise CompileError(
                f"task {task!r}: gradients differ by {figures.gradient:.1e}, but at most {GRADIENT_LIMIT:.0e} was expected; "
                "nothing was written, please report this"
            )
        drop = 100 * (figures.top1_before - figures.top1_after)
        if not drop <= max_drop_points:
            raise CompileError(
                f"task {task!r}: snapping costs {drop:.2f} points of accuracy, but at most {max_drop_points:g} were allowed; nothing was written: "
                "train with a larger mixture.entropy, raise --tau, or raise --max-drop"
            )


def _float16(bundle: Bundle, task: Task, file: bytes) -> float | None:
    try:
        half = task.signature.to("float16")
    except SignatureError:  # a number beyond float16's 65,504: the file cannot exist, which is reported, not refused
        return None
    graph = bundle.network.graph(task.graph)
    return _top1(
        _weightless_runner(file, graph, graph.fold(bundle.resolve(half).parts))(task.test.images), task.test.labels
    )


def _spread(count: int, wanted: int) -> Array:
    """Return indices of up to ``wanted`` samples, evenly spaced."""
    # Not the first ones: data sets on disk are often sorted by class.
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def _runner(
    session: ort.InferenceSession, graph: Graph, head: Mapping[str, Array] | None = None
) -> Callable[[Array], Array]:
    def run(x: Array) -> Array:
        # In slices, so that memory does not grow with the size of the test set.
        parts = [
            session.run(None, {graph.input.name: x[i : i + 512], **(head or {})})[0] for i in range(0, len(x), 512)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return run


def _weightless_runner(file: bytes, graph: Graph, weights: Mapping[str, Array]) -> Callable[[Array], Array]:
    head = {name: weights[name] for name in HEAD}
    return _runner(portable_session(file, weights, threads=1), graph, head)


def _gap(a: Array, b: Array) -> float:
    return float(np.abs(a.astype(np.float64) - b).max())


def _top1(logits: Array, labels: Array) -> float:
    # argmax names a class even for NaN, which may be the right one by chance.
    return round(float(((logits.argmax(axis=1) == labels) & np.isfinite(logits).all(axis=1)).mean()), 6)


def latencies(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Measure the median milliseconds per call of each, timed in turn."""
    times = np.empty((LATENCY_RUNS, len(runs)))
    # Warm-up: the first calls allocate memory and fill the processor's caches.
    for _ in range(20):
        for run in runs.values():
            run()
    for row in times:
        for column, run in enumerate(runs.values()):
            start = time.perf_counter()
            run()
            row[column] = 1e3 * (time.perf_counter() - start)
    # The median, because other work on the machine makes a few of the calls much slower.
    return {name: round(float(value), 4) for name, value in zip(runs, np.median(times, axis=0), strict=True)}
