"""Prometheus metrics and the protocol's statistics, from the same counters, summed over all processes.

    isoform_requests_total{route, status}          isoform_request_seconds{route}
    isoform_infer_seconds{task, stage}             of answered predictions: queue, decode, find (the signature), predict, encode
    isoform_infer_samples_total{task}              isoform_errors_total{reason}
    isoform_infer_failures_total{task}             predictions that were refused or failed
    isoform_batch_samples{task}                    batch sizes, in samples
    isoform_queue_requests                         queued requests
    isoform_resident_bytes{pid}                    resident memory of each process; without pid for a single process
    isoform_held_bytes, isoform_held_limit_bytes   memory held by requests and samples of jobs (``memory.py``), and its limit
    isoform_cache_*                                size, hits, misses and evictions of the cache of folded weights (``Runtime.stats``)

Units are seconds and bytes. Labels are routes, tasks and kinds of errors, never users. With several processes each writes to a file in
``PROMETHEUS_MULTIPROC_DIR``, which must be set before this module is imported, and any process answers for all (``metric_files.py``).
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
    "entries": "Signatures in the cache of folded weights.", "bytes": "Size of the cache.", "limit_bytes": "Maximum size of the cache.",
    "hits": "Cache hits.", "misses": "Cache misses: predictions that had to fold their weights.",
    "evictions": "Signatures evicted from the cache.", "miss_seconds": "Total time spent on cache misses.",
}  # fmt: skip


class Metrics:
    """The metrics of an application. Safe to use from several threads."""

    def __init__(self, runtime: Runtime, admission: Admission, memory: Memory) -> None:
        self._runtime, self._admission, self._memory, self._refreshed = runtime, admission, memory, 0.0
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            number = os.getpid()  # once: prometheus_client's default is a system call at every count
            values.ValueClass = MultiProcessValue(process_identifier=lambda: number)  # type: ignore[no-untyped-call]
        own = self._registry = CollectorRegistry()
        self._requests = Counter(
            "isoform_requests_total", "Answered requests, including refused ones.", ["route", "status"], registry=own
        )
        self._seconds = Histogram(
            "isoform_request_seconds", "Latency of requests.", ["route"], registry=own, buckets=BUCKETS
        )
        self._infer = Histogram(
            "isoform_infer_seconds",
            "Latency of predictions by stage.",
            ["task", "stage"],
            registry=own,
            buckets=BUCKETS,
        )
        self._samples = Counter("isoform_infer_samples_total", "Predicted samples.", ["task"], registry=own)
        self._errors = Counter(
            "isoform_errors_total", "Requests that were refused or failed.", ["reason"], registry=own
        )
        self._batches = Histogram(
            "isoform_batch_samples", "Batch size, in samples.", ["task"], registry=own, buckets=BATCHES
        )
        self._failures = Counter(
            "isoform_infer_failures_total", "Predictions that were refused or failed.", ["task"], registry=own
        )
        self._queue = Gauge("isoform_queue_requests", "Queued requests.", registry=own, multiprocess_mode="livesum")
        self._resident = Gauge(
            "isoform_resident_bytes", "Resident memory of each process.", registry=own, multiprocess_mode="liveall"
        )
        self._held = Gauge(
            "isoform_held_bytes",
            "Memory held by requests and samples of jobs.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self._held_limit = Gauge(
            "isoform_held_limit_bytes", "Limit of isoform_held_bytes.", registry=own, multiprocess_mode="livesum"
        )
        # Children by label, because prometheus_client's own look-up takes a lock and builds texts at every count.
        self._served: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._stages: dict[str, tuple[Histogram, ...]] = {}
        self._batches_of: dict[str, Histogram] = {}
        self._cache = {
            name: Gauge(f"isoform_cache_{name}", text, registry=own, multiprocess_mode="livesum")
            for name, text in _CACHE.items()
        }

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request and its latency."""
        served = self._served.get((route, status))
        if served is None:
            served = self._served[route, status] = (
                self._requests.labels(route, str(status)),
                self._seconds.labels(route),
            )
        served[0].inc()
        served[1].observe(seconds)
        # With several processes, /metrics reads from files what each process wrote last, so gauges are kept fresh here.
        if time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self.refresh()

    def error(self, reason: str) -> None:
        """Count a request that was refused or failed."""
        self._errors.labels(reason).inc()

    def batch(self, task: str, samples: int) -> None:
        """Count a batch and its number of samples."""
        batches = self._batches_of.get(task)
        if batches is None:
            batches = self._batches_of[task] = self._batches.labels(task)
        batches.observe(samples)

    def fail(self, task: str) -> None:
        """Count a prediction that was refused or failed, if the task exists."""
        # Any other name comes from the client, and would make an unbounded number of series.
        if task in self._runtime.tasks:
            self._failures.labels(task).inc()

    def infer(self, task: str, samples: int, seconds: tuple[float, ...]) -> None:
        """Count an answered prediction: its samples, and the duration of each of ``STAGES``."""
        stages = self._stages.get(task)
        if stages is None:
            stages = self._stages[task] = tuple(self._infer.labels(task, stage) for stage in STAGES)
        for stage, spent in zip(stages, seconds, strict=True):
            stage.observe(spent)
        self._samples.labels(task).inc(samples)

    def refresh(self) -> None:
        """Update the gauges from the runtime, the queue and the memory budget."""
        self._refreshed = time.monotonic()
        stats = self._runtime.stats()
        for name, gauge in self._cache.items():
            gauge.set(stats.get(name, 0))
        self._queue.set(self._admission.waiting)
        self._resident.set(_resident_bytes())
        self._held.set(self._memory.used)
        self._held_limit.set(self._memory.limit)

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        self.refresh()
        with self._all() as registry:
            return generate_latest(registry)

    def statistics(self, task: str) -> dict[str, object]:
        """A task's entry of the protocol's statistics extension, in counts and nanoseconds."""
        found = {"count": 0.0, "samples": 0.0, "runs": 0.0, "failures": 0.0, **dict.fromkeys(STAGES, 0.0)}
        with self._all() as registry:
            samples = [sample for metric in registry.collect() for sample in metric.samples]
        for sample in samples:
            if sample.labels.get("task") != task:
                continue
            if sample.name == "isoform_infer_seconds_sum":
                found[sample.labels["stage"]] += sample.value
            # Every stage has the same count; the last one is of predictions that are complete.
            elif sample.name == "isoform_infer_seconds_count" and sample.labels["stage"] == "encode":
                found["count"] += sample.value
            elif sample.name in _COUNTS:
                found[_COUNTS[sample.name]] += sample.value
        count = int(found["count"])

        def spent(*stages: str) -> dict[str, int]:
            return {"count": count, "ns": int(1e9 * sum(found[stage] for stage in stages))}

        # The protocol's cache is one of whole answers, which this server does not have.
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
        """A registry with the metrics of all processes."""
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder is None:
            yield self._registry
            return
        from isoform.server.telemetry.metric_files import (
            MetricFiles,
        )  # here, not above: it needs fcntl, which Windows lacks

        with MetricFiles(Path(folder)).reading() as registry:
            yield registry


def _resident_bytes() -> int:
    """Resident memory of this process; 0 where the system has no ``/proc``."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
