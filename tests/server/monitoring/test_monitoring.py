"""Metrics and statistics: counted once, of all processes, and never by user."""

import json
import re
import urllib.request

import numpy as np
import pytest
from serving import serving

from isoform.server.access.keys import Keys
from isoform.server.app import create_app


def body(count, name=None) -> dict:
    """A request for so many predictions."""
    tensor = {"name": "image", "shape": [count, 1, 32, 32], "datatype": "FP32", "data": np.zeros(count * 1024).tolist()}
    return {"inputs": [tensor], "parameters": {"signature": name} if name else {}}


def numbers(text: str) -> dict[str, float]:
    """Series → value."""
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line and line[0] != "#"
    }


def test_what_is_counted(runtime, store) -> None:
    """Requests by route and status, samples and stages by task, errors by reason; the cache; no user."""
    client = create_app(runtime, store=store).test_client()
    client.put("/v1/models/plain/signatures/alice-the-user", data=runtime.signature("plain").encode())
    for count, name in ((1, None), (2, "alice-the-user"), (3, "nobody-at-all")):
        client.post("/v2/models/plain/infer", json=body(count, name))
    client.post("/v2/models/plain/infer", data=b"no")
    client.get("/nothing/here")
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain")
    assert "alice" not in answer.text
    assert "nobody" not in answer.text
    found = numbers(answer.text)
    infer = "/v2/models/<task>/infer"
    assert found[f'isoform_requests_total{{route="{infer}",status="200"}}'] == 2
    assert found[f'isoform_requests_total{{route="{infer}",status="404"}}'] == 1
    assert found[f'isoform_requests_total{{route="{infer}",status="400"}}'] == 1
    assert found['isoform_requests_total{route="none",status="404"}'] == 1
    assert found[f'isoform_request_seconds_count{{route="{infer}"}}'] == 4
    assert found['isoform_infer_samples_total{task="plain"}'] == 3
    assert found['isoform_infer_seconds_count{stage="predict",task="plain"}'] == 2
    assert found['isoform_errors_total{reason="NotFound"}'] == 2
    assert found['isoform_errors_total{reason="Input"}'] == 1
    assert found["isoform_cache_entries"] >= 1
    assert found["isoform_cache_bytes"] > 0


def test_statistics(runtime) -> None:
    """The protocol's statistics, of one task and of all."""
    client = create_app(runtime).test_client()
    for count in (1, 4):
        client.post("/v2/models/edges/infer", json=body(count))
    (entry,) = client.get("/v2/models/edges/stats").json["model_stats"]
    assert (entry["name"], entry["inference_count"], entry["execution_count"]) == ("edges", 5, 2)
    parts = [
        entry["inference_stats"][name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output")
    ]
    assert all(part > 0 for part in parts)
    assert entry["inference_stats"]["success"] == {"count": 2, "ns": pytest.approx(sum(parts), abs=10)}
    everything = client.get("/v2/models/stats").json["model_stats"]
    assert [e["inference_count"] for e in everything] == [5 if e["name"] == "edges" else 0 for e in everything]
    assert client.get("/v2/models/klingon/stats").status_code == 404
    assert client.get("/v2/models/edges/versions/2/stats").status_code == 404


def test_who_may_read_them(runtime, store) -> None:
    """A key of its own for Prometheus, which can do nothing else."""
    keys = Keys(store)
    client = create_app(runtime, store=store, keys=keys).test_client()
    for scope, status in (("metrics", 200), ("admin", 200), ("predict:*", 403)):
        assert (
            client.get("/metrics", headers={"Authorization": f"Bearer {keys.add('p', [scope])}"}).status_code == status
        )
    headers = {"Authorization": f"Bearer {keys.add('p', ['metrics'])}"}
    assert client.post("/v2/models/plain/infer", json=body(1), headers=headers).status_code == 403


def test_of_all_processes(compiled, tmp_path) -> None:
    """Two processes: whichever answers, it tells of both; and nothing is left behind."""
    flags = ("--open", "--workers", "2", "--threads", "1", "--store", tmp_path / "s.db")
    with serving(compiled, *flags) as server:
        for _ in range(40):
            request = urllib.request.Request(f"{server.url}/v2/models/plain/infer", json.dumps(body(1)).encode())
            urllib.request.urlopen(request, timeout=60).close()
        pages = []
        for _ in range(6):
            with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:
                pages.append(numbers(answer.read().decode()))
    assert {page['isoform_infer_samples_total{task="plain"}'] for page in pages} == {40.0}
    assert all(re.match(r"isoform_", series) for series in pages[0])
