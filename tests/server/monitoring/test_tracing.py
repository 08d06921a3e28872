"""Traces, as a collector receives them from a running server."""

import http.server
import json
import threading
import urllib.request

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from serving import serving

from isoform.server.app import create_app
from isoform.server.telemetry.tracing import Tracing


@pytest.fixture
def collector():
    """A collector's address, and the spans that it has received."""
    spans = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
                names = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
                spans.extend((names["service.name"], span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()
        thread.join()


def test_spans_reach_the_collector(compiled, collector, monkeypatch) -> None:
    """Each request is a span below its sender's, named by its route, with the digest that answered, the status, and no sample."""
    url, spans = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    x = np.full((1, 1, 32, 32), 0.123456)
    request = {"inputs": [{"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}]}
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    with serving(compiled, "--open", "--store", "none") as server:
        sent = urllib.request.Request(
            f"{server.url}/v2/models/plain/infer",
            json.dumps(request).encode(),
            {"traceparent": parent, "X-Request-Id": "r-9"},
        )
        with urllib.request.urlopen(sent, timeout=30) as answer:
            digest = json.load(answer)["parameters"]["digest"]
        with urllib.request.urlopen(f"{server.url}/v2/health/live", timeout=30):
            pass
    found = {span.name: span for _, span in spans}
    assert {service for service, _ in spans} == {"isoform"}
    infer = found["POST /v2/models/<task>/infer"]
    assert infer.trace_id.hex() == "ab" * 16
    assert infer.parent_span_id.hex() == "cd" * 8
    told = {entry.key: entry.value.string_value or entry.value.int_value for entry in infer.attributes}
    assert told["isoform.digest"] == digest
    assert told["isoform.request"] == "r-9"
    assert told["http.response.status_code"] == 200
    assert "0.1234" not in str(infer)
    assert "GET /v2/health/live" in found


def test_nobody_takes_spans(runtime) -> None:
    """Without an exporter nothing is traced, and requests are answered."""
    assert Tracing.found() is None
    assert create_app(runtime).test_client().get("/v2").status_code == 200
