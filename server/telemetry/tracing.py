"""OpenTelemetry traces: a span for every request, as a child of the client's span, if the library is installed.

The exporter is configured by ``OTEL_EXPORTER_OTLP_ENDPOINT`` and related variables, or by ``opentelemetry-instrument``. Without an
exporter there is no overhead. If one is configured but the library is missing, that is logged. Attributes are routes, tasks and digests,
never samples.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import Any, Self

from isoform.runtime.errors import MissingExtraError
from isoform.runtime.extras import needs
from isoform.server.exchange.record import Record

__all__ = ["Span", "Tracing", "export_traces", "flush_traces"]

log = logging.getLogger("isoform.server")

FLUSH_MS = 5000


def export_traces() -> bool:
    """Set up the exporter that the environment names, unless a tracer provider exists already. Returns whether it was set up here.

    Call it in each process after the fork, because the exporter has a thread.
    """
    if not (os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        return False
    try:
        with needs("OTEL_EXPORTER_OTLP_ENDPOINT", extra="traces"):
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except MissingExtraError as problem:
        log.warning("no traces are sent: %s", problem)
        return False
    if isinstance(trace.get_tracer_provider(), TracerProvider):  # ``opentelemetry-instrument`` has set one up
        return False
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "isoform")})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True


def flush_traces() -> None:
    """Export the buffered spans at shutdown, for at most ``FLUSH_MS``."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(FLUSH_MS)


class Span:
    """The span of one request."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def end(self, record: Record) -> None:
        """Set the span's name, attributes and status from the request's record."""
        if not self._span.is_recording():
            return
        # Only now: when the span starts, the route is not known yet.
        self._span.update_name(f"{self._span.attributes['http.request.method']} {record.route}")
        told = {
            "http.route": record.route, "http.response.status_code": record.status, "isoform.request": record.id, "isoform.task": record.task,
            "isoform.digest": record.digest, "isoform.revision": record.revision, "error.type": record.error,
        }  # fmt: skip
        self._span.set_attributes({name: value for name, value in told.items() if value is not None})
        # OpenTelemetry's HTTP conventions: a 4xx is the client's error, and no error of a server's span.
        if record.status >= 500:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR)


class Tracing:
    """Creates spans."""

    def __init__(self, tracer: Any, extract: Any, kind: Any) -> None:
        self._tracer, self._extract, self._kind = tracer, extract, kind

    @classmethod
    def found(cls) -> Self | None:
        """The tracing of this process; None if the library is not installed or no exporter is configured."""
        if importlib.util.find_spec("opentelemetry") is None:
            return None
        from opentelemetry import propagate, trace

        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            return None
        return cls(trace.get_tracer("isoform.server"), propagate.extract, trace.SpanKind.SERVER)

    @contextlib.contextmanager
    def span(self, environ: dict[str, Any]) -> Iterator[Span]:
        """Wrap a request in a span, as a child of the client's."""
        carrier = {
            name[5:].lower().replace("_", "-"): value
            for name, value in environ.items()
            if name in ("HTTP_TRACEPARENT", "HTTP_TRACESTATE", "HTTP_BAGGAGE")
        }
        attributes = {"http.request.method": environ["REQUEST_METHOD"]}
        with self._tracer.start_as_current_span(
            environ["REQUEST_METHOD"], context=self._extract(carrier), kind=self._kind, attributes=attributes
        ) as span:
            yield Span(span)
