"""What every request passes: ids, allowances, deadlines, what is written down, and how a server stops."""

import json
import logging
import time

import numpy as np
import pytest

from isoform.runtime.errors import UsageError
from isoform.server.access.keys import Keys
from isoform.server.app import create_app
from isoform.server.capacity.admission import Admission, Rates
from isoform.server.exchange.problems import BusyError, TooManyError
from isoform.server.service.draining import Draining
from isoform.server.service.settings import Settings

INFER = "/v2/models/plain/infer"


def body(**parameters) -> dict:
    """A request for one prediction."""
    tensor = {"name": "image", "shape": [1, 1, 32, 32], "datatype": "FP32", "data": np.full(1024, 0.123456).tolist()}
    return {"inputs": [tensor], "parameters": parameters}


def test_request_ids(client) -> None:
    """Every answer has an id: the client's, if it is one, else a new one; on every route, also on refusals."""
    assert client.get("/v2", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    assert client.post(INFER, json=body(), headers={"X-Request-Id": "abc-2"}).headers["X-Request-Id"] == "abc-2"
    fresh = [client.post(INFER, data=b"no", headers={"X-Request-Id": "a b\x7f"}).headers["X-Request-Id"] for _ in range(3)]  # fmt: skip
    assert len(set(fresh)) == 3
    assert "a b" not in "".join(fresh)
    for path in ("/v2", "/nothing", INFER):
        assert client.get(path).headers["X-Content-Type-Options"] == "nosniff"


def test_methods_of_a_prediction(client) -> None:
    """A prediction is asked for by POST; GET is 405 and says so, OPTIONS tells."""
    answer = client.get(INFER)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST, OPTIONS")
    assert "error" in answer.json
    answer = client.options(INFER)
    assert (answer.status_code, answer.headers["Allow"]) == (200, "OPTIONS, POST")


@pytest.mark.parametrize("which", ["all", "errors", "none"])
def test_what_is_written_down(which, runtime, store, caplog) -> None:
    """One line of JSON: id, route, status, whose network by digest, who asked; never a sample. Or only what failed or changed something."""
    secret = Keys(store).add("phone", ["write:alice", "predict"])
    app = create_app(runtime, store=store, keys=Keys(store), settings=Settings(log=which))
    client, headers = app.test_client(), {"Authorization": f"Bearer {secret}", "X-Request-Id": "r-1"}
    signature = runtime.signature("plain").keep("mixture")
    with caplog.at_level(logging.INFO, "isoform.access"):
        client.put("/v1/models/plain/signatures/alice", data=signature.encode(), headers=headers)
        client.post(INFER, json=body(signature="alice"), headers=headers)
        client.post(INFER, json=body(signature="bob"), headers=headers)
        client.get("/v2/models/plain", headers=headers)
        client.delete("/v1/models/plain/signatures/alice", headers=headers)
    lines = [json.loads(record.message) for record in caplog.records if record.name == "isoform.access"]
    assert len(lines) == {"all": 5, "errors": 3, "none": 0}[which]
    assert secret not in caplog.text
    assert "0.12345" not in caplog.text
    if which == "none":
        return
    put, refused, deleted = lines[0], lines[-2 if which == "errors" else -3], lines[-1]
    assert [deleted[name] for name in ("method", "status", "task", "signature")] == ["DELETE", 204, "plain", "alice"]
    assert (put["method"], put["route"], put["status"]) == ("PUT", "/v1/models/<task>/signatures/<user>", 201)
    assert (put["signature"], put["revision"], put["digest"]) == ("alice", 1, signature.digest)
    assert (put["caller"], put["request"]) == ("phone", "r-1")
    assert put["ms"] > 0
    assert (refused["status"], refused["error"], refused["caller"]) == (403, "Forbidden", "phone")
    if which == "all":
        infer = lines[1]
        assert (infer["task"], infer["signature"], infer["digest"]) == ("plain", "alice", signature.digest)
        assert infer["bytes"] > 100


def test_rate(runtime, store) -> None:
    """A key that asks too often gets 429 and when to try again; another key is not troubled, nor are health and metrics."""
    keys = Keys(store)
    one, two = (f"Bearer {keys.add(name, ['admin'])}" for name in ("one", "two"))
    client = create_app(runtime, store=store, keys=keys, settings=Settings(rate_per_second=1)).test_client()
    answers = [client.get("/v2", headers={"Authorization": one}) for _ in range(12)]
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["Retry-After"]) >= 1
    assert "1 requests a second" in refused.json["error"]
    assert client.get("/v2", headers={"Authorization": two}).status_code == 200
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/metrics", headers={"Authorization": one}).status_code == 200
    time.sleep(1.1)
    assert client.get("/v2", headers={"Authorization": one}).status_code == 200


def test_allowances_fill_up_again() -> None:
    """So many at once, then so many a second; 0 is no limit."""
    rates = Rates(4)
    for _ in range(4):
        rates.spend("a")

    def ten_more() -> None:
        for _ in range(10):
            rates.spend("a")

    with pytest.raises(TooManyError) as caught:
        ten_more()
    assert 0 < caught.value.seconds <= 1 / 4
    time.sleep(0.3)
    rates.spend("a")
    free = Rates(0)
    for _ in range(1000):
        free.spend("a")


def test_deadlines(runtime) -> None:
    """A prediction that waited longer than its request says is 408; one that waited longer than the server allows is 503."""
    client = create_app(runtime).test_client()
    answer = client.post(INFER, json=body(timeout=0.01))
    assert answer.status_code == 408
    assert "the deadline passed" in answer.json["error"]
    assert client.post(INFER, json=body(timeout=5e6)).status_code == 200
    assert client.post(INFER, json=body(timeout=0)).status_code == 200
    strict = create_app(runtime, settings=Settings(deadline_seconds=1e-6)).test_client()
    answer = strict.post(INFER, json=body(timeout=5e6))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert strict.post(INFER, json=body(timeout=0.01)).status_code == 408


def test_the_queue() -> None:
    """So many wait, no more; a place is free again when one waits no longer; who may always wait is counted too."""
    admission = Admission(2)
    admission.enter()
    admission.check()
    admission.enter()
    for refused in (admission.check, admission.enter):
        with pytest.raises(BusyError, match="2 requests wait in this process"):
            refused()
    admission.enter(always=True)
    assert admission.waiting == 3
    for _ in range(2):
        admission.leave()
    admission.enter()
    assert admission.waiting == 2


def test_not_ready_while_it_drains(runtime, store) -> None:
    """When the server is about to stop it is alive and predicts, but is not ready and takes no new job."""
    draining = Draining()
    client = create_app(runtime, store=store, draining=draining).test_client()
    assert client.get("/v2/health/ready").status_code == 200
    draining.begin()
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/v2/health/live").status_code == 200
    assert client.post(INFER, json=body()).status_code == 200
    answer = client.post("/v1/models/plain/signatures/alice/adapt", json={"inputs": body()["inputs"]})
    assert answer.status_code == 503
    assert "shutting down" in answer.json["error"]


@pytest.mark.parametrize(
    "wrong",
    [{"queue_requests": 0}, {"rate_per_second": -1}, {"deadline_seconds": 1e9}, {"batch_samples": 0}, {"batch_delay_seconds": 2},
     {"waiters": -1}, {"log": "some"}],
)  # fmt: skip
def test_settings_out_of_range(wrong) -> None:
    """A setting that makes no sense is refused with its range."""
    (name,) = wrong
    with pytest.raises(UsageError, match=f"{name} is .* was expected"):
        Settings(**wrong)
