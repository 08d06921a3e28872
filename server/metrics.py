"""What Prometheus is told, and the protocol's statistics, from the same counters; of all processes together.

    isoform_requests_total{route, status}          isoform_request_seconds{route}
    isoform_infer_seconds{task, stage}             decode, predict, encode: of predictions that were answered
    isoform_infer_samples_total{task}              isoform_errors_total{reason}
    isoform_cache_*                                what the runtimes hold, found, built and dropped (``Runtime.stats``)

Seconds and bytes; labels are routes, tasks and kinds of errors, never users. Where several processes serve, each writes its numbers to
a file in ``PROMETHEUS_MULTIPROC_DIR``, which must be set before this is imported, and any of them answers for all.
"""

from __future__ import annotations

import os
import time

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from isoform.runtime.runtime import Runtime

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
STAGES = ("decode", "predict", "encode")
REFRESH_SECONDS = 1.0
_CACHE = {
    "entries": "Signatures whose weights are ready to run.", "bytes": "Bytes of them.", "limit_bytes": "At most so many bytes.",
    "hits": "Predictions that found their weights ready.", "misses": "Predictions that had to make them ready.",
    "evictions": "Signatures that had to make room.", "miss_seconds": "Seconds that making ready took together.",
}  # fmt: skip


class Metrics:
    """An application's counters. Safe to use from several threads."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._refreshed = runtime, 0.0
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
        self._cache = {
            name: Gauge(f"isoform_cache_{name}", text, registry=own, multiprocess_mode="livesum")
            for name, text in _CACHE.items()
        }

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self.refresh()

    def error(self, reason: str) -> None:
        """Count what did not get an answer of the kind that it asked for."""
        self._errors.labels(reason).inc()

    def infer(self, task: str, samples: int, seconds: tuple[float, float, float]) -> None:
        """Count a prediction that was answered: its samples, and how long each of ``STAGES`` took."""
        for stage, spent in zip(STAGES, seconds, strict=True):
            self._infer.labels(task, stage).observe(spent)
        self._samples.labels(task).inc(samples)

    def refresh(self) -> None:
        """Take over what the runtime says of itself."""
        self._refreshed = time.monotonic()
        stats = self._runtime.stats()
        for name, gauge in self._cache.items():
            gauge.set(stats.get(name, 0))

    def page(self) -> bytes:
        """Everything, in Prometheus' text format."""
        self.refresh()
        return generate_latest(self._all())

    def statistics(self, task: str) -> dict[str, object]:
        """A task's entry of the statistics extension: counts and nanoseconds."""
        found = {"count": 0.0, "samples": 0.0, **dict.fromkeys(STAGES, 0.0)}
        for metric in self._all().collect():
            for sample in metric.samples:
                if sample.labels.get("task") != task:
                    continue
                if sample.name == "isoform_infer_seconds_sum":
                    found[sample.labels["stage"]] += sample.value
                elif sample.name == "isoform_infer_seconds_count" and sample.labels["stage"] == "encode":
                    found["count"] += sample.value
                elif sample.name == "isoform_infer_samples_total":
                    found["samples"] += sample.value
        count = int(found["count"])

        def spent(*stages: str) -> dict[str, int]:
            return {"count": count, "ns": int(1e9 * sum(found[stage] for stage in stages))}

        none = {"count": 0, "ns": 0}
        return {
            "inference_count": int(found["samples"]), "execution_count": count,
            "inference_stats": {
                "success": spent(*STAGES), "fail": none, "queue": none, "compute_input": spent("decode"),
                "compute_infer": spent("predict"), "compute_output": spent("encode"), "cache_hit": none, "cache_miss": none,
            },
            "batch_stats": [],
        }  # fmt: skip

    def _all(self) -> CollectorRegistry:
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self._registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry
