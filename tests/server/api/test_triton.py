"""Triton's own client, as it is, against the running server."""

from collections.abc import Iterator

import numpy as np
import pytest
from serving import serving

triton = pytest.importorskip("tritonclient.http")


@pytest.fixture(scope="module")
def url(compiled, tmp_path_factory) -> Iterator[str]:
    """host:port of a running server."""
    with serving(compiled, "--store", tmp_path_factory.mktemp("triton") / "signatures.db", "--open") as server:
        yield server.url.removeprefix("http://")


@pytest.fixture
def client(url) -> Iterator:
    """A client."""
    with triton.InferenceServerClient(url) as client:
        yield client


def tensor(x, *, binary: bool):
    """An input."""
    result = triton.InferInput("image", list(x.shape), "FP32")
    result.set_data_from_numpy(np.ascontiguousarray(x), binary_data=binary)
    return result


def test_health_and_metadata(client, runtime) -> None:
    """Live, ready, and what there is."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("plain")
    assert client.is_model_ready("plain", "1")
    assert not client.is_model_ready("klingon")
    assert not client.is_model_ready("plain", "2")
    assert client.get_server_metadata()["name"] == "isoform"
    metadata = client.get_model_metadata("plain")
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 32, 32]}]
    assert metadata["parameters"]["digest"] == runtime.signature("plain").digest


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(binary, compression, client, runtime, samples) -> None:
    """Binary and JSON, compressed both ways: the runtime's own logits, to the bit."""
    x = samples[0][:40]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "logits", "probabilities")]
    result = client.infer(
        "edges", [tensor(x, binary=binary)], outputs=outputs, request_id="7",
        request_compression_algorithm=compression, response_compression_algorithm=compression,
    )  # fmt: skip
    expected = runtime.predict(x, runtime.signature("edges"))
    assert np.array_equal(result.as_numpy("logits"), expected)
    assert np.allclose(result.as_numpy("probabilities").sum(axis=1), 1)
    names = [name.decode() if isinstance(name, bytes) else name for name in result.as_numpy("label")]
    assert names == [runtime.labels(runtime.signature("edges"))[i] for i in expected.argmax(axis=1)]
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "edges", "1")
    assert answer["parameters"] == {"digest": runtime.signature("edges").digest}


def test_no_outputs_named(client, runtime, samples) -> None:
    """All of them, binary, as the client asks then."""
    result = client.infer("plain", [tensor(samples[0][:2], binary=True)])
    assert np.array_equal(result.as_numpy("logits"), runtime.predict(samples[0][:2], runtime.signature("plain")))


def test_a_user_in_the_parameters(client, url, runtime, samples) -> None:
    """The network of whoever is named; nobody of that name is the client's exception."""
    import urllib.request

    base = runtime.signature("edges")
    mine = base.replace(parts={**base.parts, "logits.bias": base.parts["logits.bias"] + 1}, created="today")
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(
        f"http://{url}/v1/models/edges/signatures/alice", mine.encode(), headers, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 201
    x = samples[0][:4]
    result = client.infer("edges", [tensor(x, binary=True)], parameters={"signature": "alice"})
    assert np.array_equal(result.as_numpy("logits"), runtime.predict(x, mine))
    assert result.get_response()["parameters"] == {"signature": "alice", "revision": 1, "digest": mine.digest}
    with pytest.raises(triton.InferenceServerException, match="there is no signature 'bob' for task 'edges'"):
        client.infer("edges", [tensor(x, binary=True)], parameters={"signature": "bob"})
    with pytest.raises(triton.InferenceServerException, match="was expected"):
        client.infer("edges", [tensor(x[:, :, :16], binary=True)])


def test_repository(client, samples) -> None:
    """List, unload, load: a task that is unloaded does not answer."""
    states = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert set(states.values()) == {"READY"}
    client.unload_model("plain")
    assert not client.is_model_ready("plain")
    assert not client.is_server_ready()
    with pytest.raises(triton.InferenceServerException, match="is unloaded"):
        client.infer("plain", [tensor(samples[0][:1], binary=True)])
    assert {e["name"]: e["state"] for e in client.get_model_repository_index()}["plain"] == "UNAVAILABLE"
    client.load_model("plain")
    assert client.is_model_ready("plain")
    assert client.is_server_ready()
    with pytest.raises(triton.InferenceServerException, match="there is no task 'klingon'"):
        client.load_model("klingon")
    with pytest.raises(triton.InferenceServerException, match="none were expected"):
        client.load_model("plain", config="{}")
