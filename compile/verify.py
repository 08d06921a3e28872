"""Verify: torch, the numpy twin and ONNX Runtime must say the same on real samples, and snapping must not cost accuracy.

parity      largest |difference| of logits over up to 256 test samples, snapped signature, every layout
top-1       share of all test samples that are right: torch with the trained signature (before), ONNX Runtime with the
            snapped one (after), and with its float16 file
latency     median time of one sample with one thread, layouts in turn, so that a noisy machine is noisy to both
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.session import open_session, ort, session_options
from isoform.runtime.errors import CompileError, SignatureError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD
from isoform.train.data.samples import Split
from isoform.train.kinds.mixture.bundling import network_from_bundle

__all__ = ["Measured", "check", "measure"]

PARITY_SAMPLES = 256
PARITY_LIMIT = 1e-4
"""Largest difference of logits that is accepted, for logits up to ``PARITY_SCALE``; beyond, in proportion to them."""
PARITY_SCALE = 64.0
"""float32 has about 7 digits: sums of this size cannot agree to much better than the limit in every order of adding."""
LATENCY_RUNS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one task."""

    samples: int
    """Test samples behind the top-1 figures."""
    parity_samples: int
    torch_fast: float
    """Largest |torch - ONNX Runtime| of the fast layout's logits."""
    numpy_fast: float
    """Largest |numpy twin - ONNX Runtime|, fast layout."""
    torch_small: float
    torch_portable: float
    top1_before: float
    """Trained signature in torch, 0 to 1."""
    top1_after: float
    """Snapped signature, fast layout."""
    top1_float16: float | None
    """Snapped signature through its float16 file, folded and run; None if a number is too large for float16."""
    largest_logit: float
    """Largest |logit| behind the parity figures."""
    latency_fast_ms: float
    latency_small_ms: float


def measure(
    bundle: Bundle, task: str, signature: Signature, test: Split, *, fast: bytes, small: bytes, portable: bytes
) -> Measured:
    """Run one task every way.

    Args:
        bundle: Templates and trained signatures.
        task: Its name.
        signature: Its snapped signature.
        test: Test samples, images as the network takes them.
        fast: The fast layout's file.
        small: The small layout's file.
        portable: The portable graph's file.
    """
    resolved = bundle.resolve(signature)
    weights = bundle.network.fold(resolved)
    run_fast, run_small = (
        _runner(open_session(graph, session_options(1), what=f"the {layout} layout"))
        for layout, graph in (("fast", fast), ("small", small))
    )
    x = np.ascontiguousarray(test.images[_spread(len(test.images), PARITY_SAMPLES)])
    network = network_from_bundle(bundle, {"before": bundle.signatures[task], "after": signature})
    with torch.no_grad():
        by_torch = network(torch.from_numpy(x), 1).numpy()
        before = np.concatenate(
            [
                network(torch.from_numpy(part), 0).numpy()
                for part in np.array_split(test.images, max(1, len(test.images) // 512))
            ]
        )
    by_fast = run_fast(x)
    latency = _latencies([run_fast, run_small], x[:1])
    return Measured(
        samples=len(test.labels), parity_samples=len(x),
        torch_fast=_gap(by_torch, by_fast),
        numpy_fast=_gap(bundle.network.reference(resolved, x), by_fast),
        torch_small=_gap(by_torch, run_small(x)),
        torch_portable=_gap(by_torch, _portable_runner(portable, weights)(x)),
        top1_before=_top1(before, test.labels),
        top1_after=_top1(run_fast(test.images), test.labels),
        top1_float16=_float16(bundle, signature, test, portable),
        largest_logit=float(np.abs(by_torch).max()),
        latency_fast_ms=latency[0], latency_small_ms=latency[1],
    )  # fmt: skip


def check(measured: Mapping[str, Measured], *, max_drop_points: float) -> None:
    """Refuse a compilation that is not the trained network any more.

    Raises:
        CompileError: If a task's logits differ by more than ``PARITY_LIMIT`` (see there), or its top-1 fell by more than ``max_drop_points``.
    """
    for task, figures in measured.items():
        for name in ("torch_fast", "numpy_fast", "torch_small", "torch_portable"):
            gap = getattr(figures, name)
            limit = PARITY_LIMIT * max(1.0, figures.largest_logit / PARITY_SCALE)
            if not gap <= limit < math.inf:
                raise CompileError(
                    f"task {task!r}: logits differ by {gap:.1e} ({name}), but at most {limit:.1e} was expected; nothing was written, please report this"
                )
        drop = 100 * (figures.top1_before - figures.top1_after)
        if not drop <= max_drop_points:
            raise CompileError(
                f"task {task!r}: snapping costs {drop:.2f} points of accuracy, but at most {max_drop_points:g} were allowed; nothing was written: "
                "train with a stronger entropy regulariser, raise --tau, or allow it with --max-drop"
            )


def _float16(bundle: Bundle, signature: Signature, test: Split, portable: bytes) -> float | None:
    try:
        half = signature.to("float16")
    except SignatureError:
        return None
    weights = bundle.network.fold(bundle.resolve(half))
    return _top1(_portable_runner(portable, weights)(test.images), test.labels)


def _spread(count: int, wanted: int) -> Array:
    """Indices of up to ``wanted`` samples, evenly over all."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def _runner(session: ort.InferenceSession, head: Mapping[str, Array] | None = None) -> Callable[[Array], Array]:
    def run(x: Array) -> Array:
        parts = [session.run(None, {"image": x[i : i + 512], **(head or {})})[0] for i in range(0, len(x), 512)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return run


def _portable_runner(portable: bytes, weights: Mapping[str, Array]) -> Callable[[Array], Array]:
    head = {name: weights[name] for name in HEAD}
    return _runner(portable_session(portable, weights, threads=1), head)


def _gap(a: Array, b: Array) -> float:
    return float(np.abs(a.astype(np.float64) - b).max())


def _top1(logits: Array, labels: Array) -> float:
    return round(float(((logits.argmax(axis=1) == labels) & np.isfinite(logits).all(axis=1)).mean()), 6)


def _latencies(runners: list[Callable[[Array], Array]], x: Array) -> list[float]:
    """Median milliseconds per call of each, measured in turn."""
    times = np.empty((LATENCY_RUNS, len(runners)))
    for _ in range(20):
        for run in runners:
            run(x)
    for row in times:
        for column, run in enumerate(runners):
            start = time.perf_counter()
            run(x)
            row[column] = 1e3 * (time.perf_counter() - start)
    return [round(float(value), 4) for value in np.median(times, axis=0)]
