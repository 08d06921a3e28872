"""Nothing that a request says is ignored: what is not offered is refused by name; inputs are told apart by theirs."""

import json

import numpy as np
import pytest
from support import image

from isoform.runtime.errors import InputError
from isoform.server.capacity.memory import Memory
from isoform.server.protocol.request import decode_examples, decode_request

pytestmark = pytest.mark.trust
INFER = "/v2/models/plain/infer"
SHAPE = (1, 2, 2)
BOUNDS = Memory(64 << 20, samples=1 << 20, long_requests=1).share()


def body(**changes) -> dict:
    """A request for one prediction, with changes; ``of_input``, ``of_output`` and ``parameters`` are parameters."""
    of_input, of_output = changes.pop("of_input", {}), changes.pop("of_output", None)
    tensor = {
        "name": "image",
        "shape": [1, 1, 32, 32],
        "datatype": "FP32",
        "data": [0.5] * 1024,
        "parameters": of_input,
    }
    wanted = {} if of_output is None else {"outputs": [{"name": "label", "parameters": of_output}]}
    return {"inputs": [tensor], **wanted, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"of_output": {"classification": 3}}, "$.outputs[0].parameters.classification: classification is not supported"),
     ({"of_output": {"shared_memory_region": "r", "shared_memory_byte_size": 9}}, "$.outputs[0].parameters.shared_memory_region: shared memory is not"),
     ({"of_input": {"shared_memory_region": "r"}}, "$.inputs[0].parameters.shared_memory_region: shared memory is not supported"),
     ({"of_input": {"content_type": "base64"}}, "$.inputs[0].parameters: binary_data_size were expected, but 'content_type' came"),
     ({"of_output": {"binary": True}}, "$.outputs[0].parameters: binary_data were expected, but 'binary' came"),
     ({"parameters": {"sequence_id": 7, "sequence_start": True}}, "$.parameters.sequence_id: sequences are not supported"),
     ({"parameters": {"sequence_end": True}}, "$.parameters.sequence_end: sequences are not supported"),
     ({"parameters": {"priority": 1}}, "$.parameters.priority: priorities are not supported"),
     ({"parameters": {"classification": 1}}, "$.parameters.classification: classification is not supported"),
     ({"parameters": {"Signature": "alice"}}, "$.parameters: binary_data_output, signature, timeout were expected, but 'Signature' came"),
     ({"signature": "alice"}, "but 'signature' came"), ({"parameter": {}}, "but 'parameter' came"),
     ({"outputs": [{"name": "label", "binary_data": True}]}, "$.outputs[0]: datatype, name, parameters, shape were expected, but 'binary_data' came"),
     ({"outputs": [{"name": "logits", "datatype": "FP64"}]}, "$.outputs[0].datatype: 'FP32' was expected, or none, but 'FP64' came"),
     ({"outputs": [{"name": "label", "datatype": "FP32"}]}, "$.outputs[0].datatype: 'BYTES' was expected"),
     ({"outputs": [{"name": "label"}, {"name": "logits", "shape": [99]}]}, "$.outputs[1].shape: [1, 10] was expected, or none, but [99] came"),
     ({"outputs": [{"name": "logits", "shape": [2, 10]}]}, "$.outputs[0].shape: [1, 10]"), ({"outputs": [{"name": "logits", "shape": [True, 10]}]}, "[1, 10]"),
     ({"outputs": [{"name": "label", "shape": [1, 10]}]}, "$.outputs[0].shape: [1] was"), ({"outputs": [{"name": "logits", "shape": 5}]}, "[1, 10]"),
     ({"model_name": "edges"}, "must match the path if given"), ({"model_version": "2"}, "must match the path if given")],
)  # fmt: skip
def test_what_is_not_offered_is_refused_by_name(changes, said, client) -> None:
    """400 with the JSON path, on every level, instead of an answer that means something else than was asked for."""
    answer = client.post(INFER, json=body(**changes))
    assert (answer.status_code, said in answer.json["error"]) == (400, True), answer.json


def test_what_asks_for_nothing_is_as_good_as_none(client) -> None:
    """Clients that always send a field, with the value for nothing or with what the path says, are answered."""
    nothing = {
        "priority": 0,
        "sequence_id": 0,
        "sequence_start": False,
        "sequence_end": False,
        "timeout": 0,
        "signature": None,
    }
    sent = body(
        parameters=nothing, of_output={"classification": 0, "binary_data": False}, model_name="plain", model_version="1"
    )
    answer = client.post(INFER, json=sent)
    assert (answer.status_code, [entry["name"] for entry in answer.json["outputs"]]) == (200, ["label"])
    for outputs in (
        client.get("/v2/models/plain").json["outputs"],
        [{"name": "logits", "datatype": "FP32", "shape": [1, 10]}],
    ):
        assert client.post(INFER, json=body(outputs=outputs)).status_code == 200


def test_queries_and_other_bodies(keeper) -> None:
    """A query that nobody reads is refused as well, and so are parameters of learning, of loading and of unloading."""
    alice = "/v1/models/plain/signatures/alice"
    for path, sent, said in (
        (f"{INFER}?signature=alice", body(), "a prediction takes no query"),
        (f"{alice}/personalize?part=head", body(), "unknown query parameter 'part'"),
        (f"{alice}/adapt?methods=tent", body(), "unknown query parameter 'methods'"),
        (f"{alice}/adapt", body(parameters={"signature": "bob"}), "'signature' came"),
        (f"{alice}/adapt", body(parameters={"steps": 3}), "'steps' came"), (f"{alice}/adapt", body(outputs=[{"name": "label"}]), "'outputs' came"),
        (f"{alice}/rollback?revision=1", {"revision": 1}, "unknown query parameter 'revision', but none was expected"),
        ("/v2/repository/models/plain/unload", {"parameters": {"seconds": 9}}, "'seconds' came"), ("/v2/repository/index", {"redy": True}, "'redy' came"),
        ("/v2/repository/models/plain/load", {"config": "{}"}, "'config' came"),
        ("/v2/repository/models/plain/load", {"parameters": []}, "an object was expected"),
        ("/v2/repository/models/plain/load", {"parameters": {"a": None, "b": 1}}, "none were"),
        ("/v2/repository/models/plain/load?parameters=x", {}, "unknown query parameter 'parameters'"),
        ("/v2/repository/models/plain/unload?force=1", {}, "unknown query parameter 'force'"),
        ("/v2/repository/index?ready=true", {}, "unknown query parameter 'ready', but none was expected"),
        (f"{alice}/adapt?method=auto&method=tent", body(), "query parameter 'method' came 2 times"),
    ):  # fmt: skip
        answer = keeper.post(path, json=sent)
        assert (answer.status_code, said in answer.json["error"]) == (400, True), (path, answer.json)
    for method, path in (("DELETE", f"{alice}?revision=3"), ("PUT", f"{alice}?dry=1"), ("GET", "/v1/models/plain/templates?user=alice"),
                         ("GET", "/v1/models/plain/signatures?offset=3"), ("GET", f"{alice}/revisions?befor=3"), ("GET", "/v1/events?after=3"),
                         ("GET", f"{alice}?revision=7"), ("GET", f"{alice}/jobs?limit=1&state=done"), ("GET", "/v1/jobs/0?wait=1"),
                         ("DELETE", "/v1/jobs/0?now"), ("GET", "/v2/models/stats?task=plain"), ("GET", "/v2/models/plain/stats?x=1"), ("GET", "/v2?x="),
                         ("GET", "/v2/models/plain?version=1"),
                         ("GET", "/metrics?name[]=x"), ("GET", "/openapi.json?version=3"), ("GET", "/v2/models/plain/ready?version=2"),
                         ("GET", f"{alice}/revisions?limit=1&limit=5"), ("GET", f"{alice}/file?revision=1&revision=1")):  # fmt: skip
        answer = keeper.open(path, method=method)
        assert (answer.status_code, "query parameter" in answer.json["error"]) == (400, True), path
    for path in (
        "/v2/models/plain/ready",
        "/v2/health/live?probe=1",
        "/v2/health/ready?probe=1",
        "/?lang=en",
        "/page/page.css?v=2",
    ):
        assert keeper.get(path).status_code == 200, path


@pytest.mark.parametrize(("method", "path"), [("POST", "/personalize"), ("POST", "/adapt"), ("DELETE", "")])
def test_a_key_that_would_not_be_heeded_is_refused(method, path, keeper, runtime) -> None:
    """An ``Idempotency-Key`` where what is sent again is done again: 400, and neither is there a job nor is anything deleted."""
    alice = "/v1/models/plain/signatures/alice"
    keeper.put(alice, data=runtime.signature("plain").encode())
    answer = keeper.open(alice + path, method=method, json=body(), headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json["error"].startswith("Idempotency-Key is not supported here")) == (
        400,
        True,
    ), answer.json
    assert (keeper.get(alice).status_code, keeper.get(f"{alice}/jobs").json) == (200, {"jobs": []})


@pytest.mark.parametrize("order", [("image", "label"), ("label", "image")])
@pytest.mark.parametrize("binary", [True, False])
def test_inputs_come_in_any_order(order, binary) -> None:
    """They are told apart by name, and numbers behind the JSON belong to them in the order in which they stand."""
    numbers = np.arange(8, dtype="<f4").reshape(2, *SHAPE)
    values = {"image": numbers, "label": np.array([1, 0], "<i8")}
    inputs, tail = [], b""
    for name in order:
        data = values[name].tobytes()
        more = {"parameters": {"binary_data_size": len(data)}} if binary else {"data": values[name].ravel().tolist()}
        kind, shape = ("FP32", [2, *SHAPE]) if name == "image" else ("INT64", [2])
        inputs.append({"name": name, "datatype": kind, "shape": shape, **more})
        tail += data if binary else b""
    head = json.dumps({"inputs": inputs}).encode()
    samples, labels = decode_examples(
        head + tail, takes=image(SHAPE), json_bytes=len(head), labelled=True, bounds=BOUNDS
    )
    assert np.array_equal(samples, numbers)
    assert labels == [1, 0]


def test_inputs_twice_or_of_another_name() -> None:
    """The path and the name that was expected are said."""
    sent = {"name": "image", "datatype": "FP32", "shape": [1, *SHAPE], "data": [0] * 4}
    other = {**sent, "name": "x"}
    for inputs, said in (
        ([sent, sent], r"inputs\[1\].name: 'label' was"),
        ([other, sent], "'image' or 'label' was expected"),
    ):
        with pytest.raises(InputError, match=said):
            decode_examples(json.dumps({"inputs": inputs}).encode(), takes=image(SHAPE), labelled=True, bounds=BOUNDS)
    with pytest.raises(InputError, match="a list of one object was expected"):
        decode_request(json.dumps({"inputs": [sent, sent]}).encode(), takes=image(SHAPE), bounds=BOUNDS)
