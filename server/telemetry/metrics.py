"""What Prometheus is told, and the protocol's statistics, from the same counters; of all processes together.

    isoform_requests_total{route, status}          isoform_request_seconds{route}
    isoform_infer_seconds{task, stage}             queue, decode, find (whose network), predict, encode: of predictions that were answered
    isoform_infer_samples_total{task}              isoform_errors_total{reason}
    isoform_infer_failures_total{task}             predictions that were asked for and not answered
    isoform_batch_samples{task}                    samples that were run together
    isoform_queue_requests                         requests that wait for a thread
    isoform_resident_bytes{pid}                    memory of each process; without pid where there is one only
    isoform_held_bytes, isoform_held_limit_bytes   what requests and samples of jobs hold (``memory.py``), and at most may
    isoform_cache_*                                what the runtimes hold, found, swapped in (misses) and dropped (``Runtime.stats``)

Seconds and bytes; labels are routes, tasks and kinds of errors, never users. Where several processes serve, each writes its numbers to
a file in ``PROMETHEUS_MULTIPROC_DIR``, which must be set before this is imported, and any of them answers for all (``metric_files.py``).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.values import MultiProcessValue

from isoform.runtime.runtime import Runtime
from isoform.server.capacity.admission import Admission
from isoform.server.capacity.memory import Memory

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
STAGES = ("queue", "decode", "find", "predict", "encode")
REFRESH_SECONDS = 1.0
_COUNTS = {
    "isoform_infer_samples_total": "samples", "isoform_batch_samples_count": "runs", "isoform_infer_failures_total": "failures",
}  # fmt: skip
_CACHE = {
    "entries": "Signatures whose weights are ready to run.", "bytes": "Bytes of them.", "limit_bytes": "At most so many bytes.",
    "hits": "Predictions that found their weights ready.", "misses": "Predictions that had to make them ready.",
    "evictions": "Signatures that had to make room.", "miss_seconds": "Seconds that making ready took together.",
}  # fmt: skip


class Metrics:
    """An application's counters. Safe to use from several threads."""

    def __init__(self, runtime: Runtime, admission: Admission, memory: Memory) -> None:
        self._runtime, self._admission, self._memory, self._refreshed = runtime, admission, memory, 0.0
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            number = os.getpid()  # else it is asked for, a system call, at every count
            values.ValueClass = MultiProcessValue(process_identifier=lambda: number)  # type: ignore[no-untyped-call]
        own = self._registry = CollectorRegistry()
        self._requests = Counter(
            "isoform_requests_total", "Requests that were answered.", ["route", "status"], registry=own
        )
        self._seconds = Histogram(
            "isoform_request_seconds", "Seconds to an answer.", ["route"], registry=own, buckets=BUCKETS
        )
        self._infer = Histogram(
            "isoform_infer_seconds", "Seconds of a prediction.", ["task", "stage"], registry=own, buckets=BUCKETS
        )
        self._samples = Counter("isoform_infer_samples_total", "Samples that were predicted.", ["task"], registry=own)
        self._errors = Counter(
            "isoform_errors_total", "Requests that were refused or failed.", ["reason"], registry=own
        )
        self._batches = Histogram(
            "isoform_batch_samples", "Samples that were run together.", ["task"], registry=own, buckets=BATCHES
        )
        self._failures = Counter(
            "isoform_infer_failures_total", "Predictions that were not answered.", ["task"], registry=own
        )
        self._queue = Gauge(
            "isoform_queue_requests", "Requests that wait for a thread.", registry=own, multiprocess_mode="livesum"
        )
        self._resident = Gauge(
            "isoform_resident_bytes", "Resident memory of each process.", registry=own, multiprocess_mode="liveall"
        )
        self._held = Gauge(
            "isoform_held_bytes", "What requests and samples of jobs hold.", registry=own, multiprocess_mode="livesum"
        )
        self._held_limit = Gauge(
            "isoform_held_limit_bytes", "What they may hold.", registry=own, multiprocess_mode="livesum"
        )
        self._served: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._stages: dict[str, tuple[Histogram, ...]] = {}
        self._batches_of: dict[str, Histogram] = {}
        self._cache = {
            name: Gauge(f"isoform_cache_{name}", text, registry=own, multiprocess_mode="livesum")
            for name, text in _CACHE.items()
        }

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        served = self._served.get((route, status))
        if served is None:
            served = self._served[route, status] = (
                self._requests.labels(route, str(status)),
                self._seconds.labels(route),
            )
        served[0].inc()
        served[1].observe(seconds)
        if time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self.refresh()

    def error(self, reason: str) -> None:
        """Count what did not get an answer of the kind that it asked for."""
        self._errors.labels(reason).inc()

    def batch(self, task: str, samples: int) -> None:
        """Count samples that were run together."""
        batches = self._batches_of.get(task)
        if batches is None:
            batches = self._batches_of[task] = self._batches.labels(task)
        batches.observe(samples)

    def fail(self, task: str) -> None:
        """Count a prediction that was not answered, if there is such a task."""
        if task in self._runtime.tasks:
            self._failures.labels(task).inc()

    def infer(self, task: str, samples: int, seconds: tuple[float, ...]) -> None:
        """Count a prediction that was answered: its samples, and how long each of ``STAGES`` took."""
        stages = self._stages.get(task)
        if stages is None:
            stages = self._stages[task] = tuple(self._infer.labels(task, stage) for stage in STAGES)
        for stage, spent in zip(stages, seconds, strict=True):
            stage.observe(spent)
        self._samples.labels(task).inc(samples)

    def refresh(self) -> None:
        """Take over what the runtime says of itself."""
        self._refreshed = time.monotonic()
        stats = self._runtime.stats()
        for name, gauge in self._cache.items():
            gauge.set(stats.get(name, 0))
        self._queue.set(self._admission.waiting)
        self._resident.set(_resident_bytes())
        self._held.set(self._memory.used)
        self._held_limit.set(self._memory.limit)

    def page(self) -> bytes:
        """Everything, in Prometheus' text format."""
        self.refresh()
        with self._all() as registry:
            return generate_latest(registry)

    def statistics(self, task: str) -> dict[str, object]:
        """A task's entry of the statistics extension: counts and nanoseconds."""
        found = {"count": 0.0, "samples": 0.0, "runs": 0.0, "failures": 0.0, **dict.fromkeys(STAGES, 0.0)}
        with self._all() as registry:
            samples = [sample for metric in registry.collect() for sample in metric.samples]
        for sample in samples:
            if sample.labels.get("task") != task:
                continue
            if sample.name == "isoform_infer_seconds_sum":
                found[sample.labels["stage"]] += sample.value
            elif sample.name == "isoform_infer_seconds_count" and sample.labels["stage"] == "encode":
                found["count"] += sample.value
            elif sample.name in _COUNTS:
                found[_COUNTS[sample.name]] += sample.value
        count = int(found["count"])

        def spent(*stages: str) -> dict[str, int]:
            return {"count": count, "ns": int(1e9 * sum(found[stage] for stage in stages))}

        none = {"count": 0, "ns": 0}
        failed = {"count": int(found["failures"]), "ns": 0}
        return {
            "inference_count": int(found["samples"]), "execution_count": int(found["runs"]),
            "inference_stats": {
                "success": spent(*STAGES), "fail": failed, "queue": spent("queue"), "compute_input": spent("decode", "find"),
                "compute_infer": spent("predict"), "compute_output": spent("encode"), "cache_hit": none, "cache_miss": none,
            },
            "batch_stats": [],
        }  # fmt: skip

    @contextlib.contextmanager
    def _all(self) -> Iterator[CollectorRegistry]:
        """The numbers of all processes."""
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder is None:
            yield self._registry
            return
        from isoform.server.telemetry.metric_files import (
            MetricFiles,
        )  # here, not above: Windows has neither its lock nor several processes

        with MetricFiles(Path(folder)).reading() as registry:
            yield registry


def _resident_bytes() -> int:
    """Resident memory of this process; 0 where nobody says."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
