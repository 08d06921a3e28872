"""Bodies that are not plain JSON: binary tensors, compressed ones, and those that lie about themselves."""

import contextlib
import gzip
import json
import zlib

import numpy as np
import pytest
from bodies import HEAD, INFER, binary
from hypothesis import given
from hypothesis import strategies as st
from support import image

from isoform.runtime.errors import InputError
from isoform.server.capacity.memory import Memory
from isoform.server.protocol.request import decode_request
from isoform.server.protocol.response import encode_response

SHAPE = (1, 32, 32)
BOUNDS = Memory(64 << 20, samples=1 << 20, long_requests=1).share()


def outputs_of(answer) -> dict:
    """Name → array of every output, JSON or binary."""
    size = int(answer.headers.get(HEAD, len(answer.data)))
    head, tail, found = json.loads(answer.data[:size]), answer.data[size:], {}
    for output in head["outputs"]:
        count = output.get("parameters", {}).get("binary_data_size")
        if count is None:
            found[output["name"]] = np.reshape(output["data"], output["shape"])
        else:
            part, tail = tail[:count], tail[count:]
            found[output["name"]] = (
                part if output["datatype"] == "BYTES" else np.frombuffer(part, "<f4").reshape(output["shape"])
            )
    assert tail == b""
    return found


def test_each_output_as_it_is_wanted(client, runtime, samples) -> None:
    """Binary for all but what says otherwise, or JSON for all but what says otherwise."""
    x = samples[0][:2]
    expected = runtime.predict(x, runtime.signature("plain"))
    label = b"".join(len(t).to_bytes(4, "little") + t.encode() for t in map(str, expected.argmax(axis=1)))
    wanted = [{"name": "label"}, {"name": "logits", "parameters": {"binary_data": False}}]
    body, headers = binary(x, outputs=wanted, binary_data_output=True)
    answer = client.post(INFER, data=body, headers=headers)
    assert answer.content_type == "application/octet-stream"
    found = outputs_of(answer)
    assert found["label"] == label
    assert np.array_equal(found["logits"].astype(np.float32), expected)
    body, headers = binary(x, outputs=[{"name": "logits", "parameters": {"binary_data": True}}, {"name": "label"}])
    found = outputs_of(client.post(INFER, data=body, headers=headers))
    assert np.array_equal(found["logits"], expected)
    assert found["label"].tolist() == [str(i) for i in expected.argmax(axis=1)]


def test_raw(client, runtime, samples) -> None:
    """A header of 0: the body is one sample, the answer all outputs, binary."""
    x = samples[0][:1]
    found = outputs_of(client.post(INFER, data=x.astype("<f4").tobytes(), headers={HEAD: "0"}))
    assert np.array_equal(found["logits"], runtime.predict(x, runtime.signature("plain")))
    answer = client.post(INFER, data=b"1234", headers={HEAD: "0"})
    assert answer.status_code == 400
    assert "4096 bytes were expected" in answer.json["error"]


ONE = np.zeros((1, *SHAPE), dtype=np.float32)


@pytest.mark.parametrize(
    ("body", "head", "message"),
    [
        (*binary(ONE)[:1], "x", "Inference-Header-Content-Length is 'x'"),
        (*binary(ONE)[:1], "-1", "Inference-Header-Content-Length is '-1'"),
        (*binary(ONE)[:1], "99999", "is 99999 bytes of JSON, but the body has only"),
        (*binary(ONE)[:1], "10", "$: the body is not JSON"),
        (binary(ONE, size=4)[0], binary(ONE, size=4)[1][HEAD], "4096 bytes were expected for shape [1, 1, 32, 32] in FP32, but 4 came"),
        (binary(ONE, size=True)[0], binary(ONE, size=True)[1][HEAD], "binary_data_size: at most 4096, the number of bytes after"),
        (binary(ONE)[0] + b"x", binary(ONE)[1][HEAD], "1 bytes after the JSON belong to no input"),
        (binary(ONE)[0][:-4], binary(ONE)[1][HEAD], "binary_data_size: at most 4092, the number of bytes after the JSON, was expected, but 4096 came"),
        (binary(ONE, binary_data_output=3)[0], binary(ONE, binary_data_output=3)[1][HEAD], "$.parameters.binary_data_output: true or false"),
        (binary(ONE, signature=3)[0], binary(ONE, signature=3)[1][HEAD], "$.parameters.signature: a text was expected"),
        (binary(ONE, timeout="1")[0], binary(ONE, timeout="1")[1][HEAD], "$.parameters.timeout: a positive number of microseconds"),
    ],
)  # fmt: skip
def test_bodies_that_lie(body, head, message, client) -> None:
    """400 with what was expected, where, and what came."""
    answer = client.post(INFER, data=body, headers={HEAD: head})
    assert answer.status_code == 400
    assert message in answer.json["error"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP"])
def test_compressed(encoding, client, runtime, samples) -> None:
    """Requests and long answers."""
    x = samples[0][:64]
    body, headers = binary(x, binary_data_output=True)
    packed = zlib.compress(body) if encoding == "deflate" else gzip.compress(body)
    wanted = {**headers, "Content-Encoding": encoding, "Accept-Encoding": encoding.lower()}
    answer = client.post(INFER, data=packed, headers=wanted)
    assert answer.headers["Content-Encoding"] == encoding.lower()
    plain = zlib.decompress(answer.data, zlib.MAX_WBITS | 32)
    size = int(answer.headers[HEAD])
    first = json.loads(plain[:size])["outputs"][0]
    logits = np.frombuffer(plain[size : size + first["parameters"]["binary_data_size"]], "<f4").reshape(64, 10)
    assert np.array_equal(logits, runtime.predict(x, runtime.signature("plain")))


@pytest.mark.parametrize(
    ("data", "encoding", "status", "message"),
    [
        (b"no", "gzip", 400, "is not valid gzip"), (gzip.compress(b"{}")[:-3], "gzip", 400, "cut short"),
        (gzip.compress(b"{}") + b"x", "gzip", 400, "followed by more bytes"), (b"{}", "br", 415, "gzip, deflate or none was expected"),
        (gzip.compress(b" " * (50 << 20)), "gzip", 413, "exceeds this server's limit"),
    ],
    ids=["no gzip", "cut", "more", "unknown", "bomb"],
)  # fmt: skip
def test_compressed_badly(data, encoding, status, message, client) -> None:
    """Damaged, unknown, or fifty megabytes in fifty kilobytes: refused, and never unpacked beyond the limit."""
    answer = client.post(INFER, data=data, headers={"Content-Encoding": encoding})
    assert answer.status_code == status
    assert message in answer.json["error"]


@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(0, 400)))
def test_anything_is_refused_or_read(body, head) -> None:
    """Any bytes: a request, or an InputError; nothing else."""
    with contextlib.suppress(InputError):
        assert decode_request(body, takes=image((1, 2, 2)), json_bytes=head, bounds=BOUNDS).samples.shape[1:] == (
            1,
            2,
            2,
        )


@given(
    st.integers(0, 5),
    st.lists(st.sampled_from(["logits", "probabilities", "label"]), unique=True),
    st.booleans(),
    st.text(max_size=20),
)
def test_round_trip(n, names, as_binary, identity) -> None:
    """What is encoded says of itself how to be read."""
    x = np.random.default_rng(n).normal(size=(n, 1, 2, 2)).astype(np.float32)
    wanted = [{"name": name, "parameters": {"binary_data": as_binary}} for name in names]
    tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.tolist()}
    asked = decode_request(
        json.dumps({"id": identity, "inputs": [tensor], "outputs": wanted}).encode(),
        takes=image((1, 2, 2)),
        bounds=BOUNDS,
    )
    assert np.array_equal(asked.samples, x)
    body, head = encode_response(
        asked, "t", np.arange(3 * n, dtype=np.float32).reshape(n, 3), ("a", "ü", "c"), {"digest": "d"}
    )
    answer = json.loads(body[:head])
    assert answer["id"] == identity
    assert (head is None) == (not (as_binary and names))
    assert sum(o["parameters"]["binary_data_size"] for o in answer["outputs"] if "parameters" in o) == len(
        body[len(body) if head is None else head :]
    )
