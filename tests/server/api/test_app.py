"""The application's routes, through Flask's test client."""

import importlib.metadata
import json

import numpy as np
import pytest
from support import image

from isoform.runtime.inputs import Reading, Sound
from isoform.server.app import create_app
from isoform.server.protocol.metadata import metadata


def body(x, **changes) -> dict:
    """A well-formed request, with changes to its one input."""
    tensor = {"name": "image", "shape": list(np.shape(x)), "datatype": "FP32", "data": np.asarray(x).tolist()}
    return {"inputs": [{**tensor, **changes}]}


def test_a_store_is_an_extension(client, keeper) -> None:
    """A server with a store says that it keeps signatures; one without does not."""
    assert "signatures" in keeper.get("/v2").json["extensions"]
    assert "signatures" not in client.get("/v2").json["extensions"]


def test_health_and_metadata(client, runtime) -> None:
    """Live, ready, server and model metadata follow the Open Inference Protocol, and claim the extensions that are there."""
    assert client.get("/v2/health/live").json == {"live": True}
    assert client.get("/v2/health/ready").json == {"ready": True}
    assert client.get("/v2").json == {
        "name": "isoform",
        "version": importlib.metadata.version("isoform"),
        "extensions": ["binary_tensor_data", "model_repository", "parameters", "statistics"],
    }
    assert client.get("/v2/models/plain/ready").json == {"name": "plain", "ready": True}
    model = client.get("/v2/models/plain").json
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 32, 32]}]
    assert [output["name"] for output in model["outputs"]] == ["logits", "probabilities", "label"]
    assert model["parameters"] == {
        "digest": runtime.signature("plain").digest, "what": "image", "labels": json.dumps([*runtime.labels(runtime.signature("plain"))]),
        "reading": "{}",
    }  # fmt: skip


def test_metadata_say_how_samples_are_read() -> None:
    """Columns, stride and sound of the bundle stand in a text, for clients to read samples likewise."""
    reading = Reading(columns=("x", "ÿ"), stride=8, sound=Sound(rate=8000))
    found = metadata("walk", image((2, 1, 8)), ("c0",), "d", reading)["parameters"]
    assert Reading.from_json(json.loads(found["reading"])) == reading
    assert json.loads(found["labels"]) == ["c0"]


@pytest.mark.parametrize("flat", [True, False])
def test_infer(flat, client, runtime, samples) -> None:
    """Flat and nested data give the runtime's own logits to the bit, with labels, the request's id, and the signature's digest."""
    x = samples[0][:3]
    request = {"id": "42", **body(x, data=x.ravel().tolist() if flat else x.tolist())}
    answer = client.post("/v2/models/edges/infer", json=request)
    assert answer.status_code == 200
    content = answer.json
    expected = runtime.predict(x, runtime.signature("edges"))
    outputs = {output["name"]: output for output in content["outputs"]}
    assert (content["model_name"], content["id"]) == ("edges", "42")
    assert content["parameters"] == {"digest": runtime.signature("edges").digest}
    assert outputs["logits"]["shape"] == [3, 10]
    assert np.array_equal(np.array(outputs["logits"]["data"], np.float32).reshape(3, 10), expected)
    assert np.reshape(outputs["probabilities"]["data"], (3, 10)).sum(axis=1) == pytest.approx(1)
    assert outputs["label"] == {
        "name": "label",
        "datatype": "BYTES",
        "shape": [3],
        "data": [str(i) for i in expected.argmax(1)],
    }


def test_only_the_outputs_asked_for(client, samples) -> None:
    """A request may choose its outputs and their order."""
    request = {**body(samples[0][:1]), "outputs": [{"name": "label"}, {"name": "logits"}]}
    answer = client.post("/v2/models/plain/infer", json=request).json
    assert [output["name"] for output in answer["outputs"]] == ["label", "logits"]
    assert "id" not in answer


def test_an_empty_batch(client) -> None:
    """No samples in, no predictions out."""
    answer = client.post("/v2/models/plain/infer", json=body(np.zeros((0, 1, 32, 32)), data=[])).json
    assert [output["shape"] for output in answer["outputs"]] == [[0, 10], [0, 10], [0]]


ONE = np.zeros((1, 1, 32, 32))


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        (b"", r"$: the body is not JSON"),
        (b"{", r"$: the body is not JSON"),
        (b"\xff\xfe", r"$: the body is not JSON"),
        (b"[" * 100_000, r"$: the body is not JSON"),
        ([], r"$: an object was expected, but a list came"),
        ({"id": 5, **body(ONE)}, r"$.id: a text was expected, but a number came"),
        ({}, r"$.inputs: a list of one object was expected, but null"),
        ({"inputs": []}, r"$.inputs: a list of one object was expected, but list of 0 came"),
        ({"inputs": body(ONE)["inputs"] * 2}, r"$.inputs: a list of one object was expected, but list of 2"),
        ({"inputs": [3]}, r"$.inputs: a list of one object"),
        (body(ONE, name="x"), r"$.inputs[0].name: 'image' was expected, but 'x'"),
        (body(ONE, datatype="FP16"), r"$.inputs[0].datatype: 'FP32' was expected, but 'FP16'"),
        (body(ONE, shape=[1, 32, 32]), r"$.inputs[0].shape: [n, 1, 32, 32] was expected, but [1, 32, 32] came"),
        (body(ONE, shape=[1, 1, 32, -32]), r"$.inputs[0].shape: a list of whole numbers"),
        (body(ONE, shape="1"), r"$.inputs[0].shape: a list of whole numbers"),
        (body(ONE, shape=[True, 1, 32, 32]), r"$.inputs[0].shape: a list of whole numbers"),
        (body(ONE, shape=[10**30, 1, 32, 32]), r"$.inputs[0].shape: a list of whole numbers"),
        (body(ONE, shape=[2, 1, 32, 32]), r"$.inputs[0].data: 2048 numbers or lists of shape"),
        (
            body(ONE, data=ONE[0].tolist()),
            r"$.inputs[0].data: 1024 numbers or lists of shape [1, 1, 32, 32] were expected, but a list of 32 came inside",
        ),
        (
            body(ONE, data=[[1, 2], [3]]),
            r"$.inputs[0].data: 1024 numbers or lists of shape [1, 1, 32, 32] were expected, but a list of 2 came",
        ),
        (body(ONE, data=["a"] * 1024), r"$.inputs[0].data: numbers were expected"),
        (body(ONE, data=[True] * 1024), r"$.inputs[0].data: numbers were expected"),
        (body(ONE, data=[None] * 1024), r"$.inputs[0].data: numbers were expected"),
        (body(ONE, data=[10**400] * 1024), r"$.inputs[0].data"),
        (body(ONE, data={"a": 1}), r"$.inputs[0].data: a list of numbers was expected, but a object"),
        (body(ONE, data="abc"), r"$.inputs[0].data: a list of numbers was expected, but a text"),
        (body(ONE, data=[float("nan")] * 1024), r"sample 0 holds a number that is not finite"),
        (body(ONE, data=[1e39] * 1024), r"sample 0 holds a number that is not finite"),
        ({**body(ONE), "outputs": {}}, r"$.outputs: a list of objects was expected"),
        ({**body(ONE), "outputs": [{"name": "x"}]}, r"$.outputs[0].name: one of logits"),
        ({**body(ONE), "outputs": [{"name": "label"}, {"name": "label"}]}, r"$.outputs[1].name: one of logits"),
        ({**body(ONE), "outputs": [{"name": ["label"]}]}, r"$.outputs[0].name: one of logits"),
    ],
)
def test_bad_requests_are_400_with_a_path(request_body, message, client) -> None:
    """Every malformed body is a 400 with the JSON path of what is wrong, as JSON."""
    data = request_body if isinstance(request_body, bytes) else json.dumps(request_body).encode()
    answer = client.post("/v2/models/plain/infer", data=data, content_type="application/json")
    assert answer.status_code == 400
    assert answer.json["error"].startswith(message)


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/v2/models",
        "/v2//health/live",
        "/v2/models/klingon/infer/x",
        "/v3",
        "/v2/models/../../etc/passwd",
        "/%00",
    ],
)
def test_unknown_paths_are_404(path, method, client) -> None:
    """Any other path is a 404, as JSON."""
    answer = getattr(client, method)(path)
    assert answer.status_code == 404
    assert isinstance(answer.json["error"], str)


@pytest.mark.parametrize("path", ["", "/ready", "/infer"])
def test_unknown_tasks_are_404(path, client) -> None:
    """An unknown task is a 404 that lists the tasks."""
    answer = client.open(f"/v2/models/klingon{path}", method="POST" if path == "/infer" else "GET")
    assert answer.status_code == 404
    assert "no task 'klingon'" in answer.json["error"]


def test_wrong_methods_are_405(client) -> None:
    """A wrong method is a 405 that says which are allowed."""
    answer = client.get("/v2/models/plain/infer")
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    assert answer.json["error"]


def test_a_long_body_is_413(client) -> None:
    """A body over the limit is refused, whether its length is declared or not."""
    data = b" " * ((1 << 20) + 1)
    answer = client.post("/v2/models/plain/infer", data=data)
    assert answer.status_code == 413
    assert "1,048,576 bytes" in answer.json["error"]


def test_a_bug_is_a_500_without_details(runtime, samples, monkeypatch, caplog) -> None:
    """An unforeseen error is a 500 that tells the client nothing of the inside; the log has it."""

    def explode(*_):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(type(runtime), "predict", explode)
    app = create_app(runtime)
    answer = app.test_client().post("/v2/models/plain/infer", json=body(samples[0][:1]))
    assert answer.status_code == 500
    assert answer.json == {"error": "internal server error; the server's log has the details"}
    assert "secret" in caplog.text
