"""Bounded, whatever a client sends: scope before length before type before memory, and memory before it is allocated."""

import asyncio
import contextlib
import gc
import gzip
import io
import json
import time
import tracemalloc

import numpy as np
import pytest
from bench.faults.unbounded import many_classes
from bodies import HEAD, INFER, binary
from jobs import Slow, ended

from isoform.runtime.errors import SignatureError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.tensors import HEADER_LIMIT
from isoform.server.access.keys import Keys
from isoform.server.app import create_app
from isoform.server.capacity.memory import FREE_BYTES, Memory, json_memory
from isoform.server.clients import transfer
from isoform.server.exchange.answer import Answer
from isoform.server.exchange.problems import BusyError, DeadlineError, TooLargeError, TooManyError
from isoform.server.protocol.json_object import read_json
from isoform.server.service.service import service_of
from isoform.server.service.settings import Settings

pytestmark = pytest.mark.trust
GZIP = {"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"}
ALICE = "/v1/models/plain/signatures/alice"
ADAPT = f"{ALICE}/adapt"


def image(data: str, *, samples: int = 1, more: str = "") -> bytes:
    """A request whose numbers are this JSON."""
    return (
        f'{{"inputs":[{{"name":"image","datatype":"FP32","shape":[{samples},1,32,32],"data":{data}}}]{more}}}'.encode()
    )


def posted(client, body: bytes, path: str = INFER, **headers: str):
    """The answer to a compressed body, and how many bytes were allocated for it at most."""
    found = []
    for _ in range(2):  # the smaller counts: a thread that another test has left allocates too, once
        gc.collect()
        tracemalloc.start()
        try:
            answer = client.post(path, data=gzip.compress(body), headers={**GZIP, **headers})
            found.append((tracemalloc.get_traced_memory()[1], answer))
        finally:
            tracemalloc.stop()
    peak, answer = min(found, key=lambda entry: entry[0])
    return answer, peak


@pytest.mark.parametrize("data", ['["%s"%s]', '[[[["%s"%s]]]]'], ids=["flat", "nested"])
def test_a_text_among_numbers_takes_no_more_than_itself(data, client) -> None:
    """numpy would make every number as long as the longest text: 1,024 times 400 kB here."""
    answer, peak = posted(client, image(data % ("x" * 100_000, ",0" * 1023)))
    assert answer.status_code == 400
    assert peak < 4 << 20


class Unread(io.BytesIO):
    """A body that nobody may look at."""

    def read(self, *_):  # noqa: D102
        raise AssertionError("the body was read")


@pytest.fixture
def guarded(runtime, store):
    """A client of an application with keys; and a key that may read metrics only, one that predicts as alice."""
    keys = Keys(store)
    client = create_app(runtime, store=store, keys=keys).test_client()
    return client, keys.add("m", ["metrics"]), keys.add("a", ["predict:alice"])


def test_scope_comes_before_the_body(guarded) -> None:
    """Who may not, or says too large a length or an encoding that is not known, is told so before a byte of the body is read."""
    client, metrics, alice = guarded
    long = {"CONTENT_LENGTH": str(17 << 20)}
    for status, key, path, headers, more in (
        (401, "", INFER, {}, {}),
        (403, metrics, INFER, {}, {}),
        (403, alice, INFER, {"Isoform-Signature": "bob"}, {}),
        (413, alice, INFER, {}, long),
        (415, alice, INFER, {"Content-Encoding": "br"}, {}),
        (403, alice, "/v1/models/plain/signatures/alice/personalize", {}, {}),
        (403, alice, "/v1/models/plain/signatures/alice/rollback", {}, {}),
        (403, alice, "/v2/repository/models/plain/load", {}, {}),
    ):
        environ = {"wsgi.input": Unread(), "CONTENT_LENGTH": "1000", **more}
        answer = client.post(path, headers={"Authorization": f"Bearer {key}", **headers}, environ_overrides=environ)
        assert answer.status_code == status, (path, headers, answer.json)


SHAPES = {
    "integers": "1", "floats": "0.5", "large integers": "12345678901", "lists": "[]", "lists of one": "[0]", "objects": "{}",
    "objects of one": '{"a":1}', "texts": '"ab"', "wide texts": '"💥💥"', "escapes": '"\\u0100aaaaaaaaa"', "rows": "[" + "0.5," * 31 + "0.5]",
    "null": "null",
}  # fmt: skip


@pytest.mark.parametrize("first", ['"b":0', '"b":"\\u003a"'], ids=["by msgspec", "by json after it"])
@pytest.mark.parametrize("part", SHAPES.values(), ids=SHAPES)
def test_what_json_takes_is_known_before_it_is_read(part, first) -> None:
    """The estimate is not less than what reading it takes, whatever it holds and whoever reads it."""
    text = (f'{{{first},"a":[' + ",".join([part] * 20_000) + "]}").encode()
    tracemalloc.start()
    found = read_json(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert peak <= json_memory(text)


@pytest.mark.parametrize("part", ["[]", '{"a":1}', "0.5"])
def test_json_that_would_take_too_much_is_413(part, runtime) -> None:
    """A few kilobytes, compressed, that become many objects: refused before they do."""
    client = create_app(runtime, settings=Settings(memory_bytes=16 << 20)).test_client()
    answer, peak = posted(client, image("[" + ",".join([part] * 400_000) + "]"))
    assert answer.status_code == 413
    assert "memory" in answer.json["error"]
    assert peak < 16 << 20


def test_a_budget_that_threads_share() -> None:
    """A request that needs more than all is refused for good, one that others leave no room for now; short ones pass."""
    memory, mib = Memory(32 << 20, samples=8, long_requests=2), 1 << 20
    with memory.share() as first, memory.share() as second, memory.share() as third:
        first.hold(20 * mib)
        third.hold(FREE_BYTES)
        for size, error in ((13, BusyError), (33, TooLargeError)):
            with pytest.raises(error):
                second.hold(size * mib)
        second.hold(12 * mib)
        with pytest.raises(BusyError, match="2 long requests"):
            third.hold(FREE_BYTES + 1)
        with pytest.raises(TooLargeError, match="9 samples came, but the limit for a request is 8"):
            first.check_samples(9)
        assert memory.used == 32 * mib
    assert memory.used == 0


@pytest.mark.parametrize("end", ["taken", "gone", "never taken"])
def test_an_answer_that_is_never_sent_holds_nothing(end, monkeypatch) -> None:
    """A share is given back when it is forgotten; of an answer on its way, when it is taken, its client is gone, or takes nothing for long."""
    memory = Memory(32 << 20, samples=8, long_requests=2)
    memory.share().hold(8 << 20)
    assert memory.used == 0
    monkeypatch.setattr(transfer, "SILENT_SECONDS", 0.1)
    share = memory.share()
    share.hold(8 << 20)

    async def answered() -> None:
        transfers, waits = transfer.Transfers(), asyncio.Event()

        async def send(message) -> None:
            if message["type"] == "http.response.body":
                assert memory.used == transfers.bytes * 2 == 8 << 20
                if end == "gone":
                    raise ConnectionResetError
                if end == "never taken":
                    await waits.wait()

        await transfers.send(send, Answer(200, bytes(4 << 20), sent=share.release), ())

    with pytest.raises((ConnectionResetError, DeadlineError)) if end != "taken" else contextlib.nullcontext():
        asyncio.run(answered())
    assert memory.used == 0


def test_samples_of_jobs_are_counted_until_they_are_freed() -> None:
    """At most half of the budget, however many jobs wait, and given back with the array; one caller has a quarter of that, or one job."""
    memory = Memory(8 << 20, samples=8, long_requests=2)
    samples = np.zeros(3 << 18, dtype=np.float32)
    memory.keep(samples, "one")
    with pytest.raises(BusyError, match="samples of all jobs hold"):
        memory.keep(np.zeros(1 << 19, dtype=np.float32), "two")
    with pytest.raises(TooLargeError, match="the limit for jobs is"):
        memory.keep(np.zeros(2 << 20, dtype=np.float32), "two")
    with pytest.raises(TooManyError, match="samples of this caller's jobs hold") as refused:
        memory.keep(np.zeros(1, dtype=np.float32), "one")
    assert refused.value.seconds > 0
    others = [np.zeros(1 << 17, dtype=np.float32) for _ in range(2)]
    for other in others:
        memory.keep(other, "two")
    del samples
    with pytest.raises(TooManyError, match="this caller's jobs"):
        memory.keep(np.zeros(1, dtype=np.float32), "two")
    memory.keep(again := np.zeros(1, dtype=np.float32), "one")
    assert memory.used == again.nbytes + sum(other.nbytes for other in others)
    del again, others, other
    assert memory.used == 0


def test_a_job_keeps_its_samples_and_not_the_body_around_them(keeper, runtime, monkeypatch) -> None:
    """Bodies of a megabyte with one sample each, of jobs that wait: they take what is counted, which is the samples."""
    slow, memory = Slow(monkeypatch, runtime), service_of(keeper.application).memory
    body, headers = binary(np.ones((1, 1, 32, 32)))
    size = int(headers[HEAD])
    padded = body[: size - 1] + b" " * (1 << 20) + body[size - 1 :]
    jobs = []
    tracemalloc.start()
    for _ in range(5):
        answer, _ = keeper.post(ADAPT, data=padded, headers={**headers, HEAD: str(size + (1 << 20))}), gc.collect()
        jobs.append(answer.json["id"])
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert memory.used == 5 * 4096
    assert held < 2 << 20
    slow.go.set()
    for job in jobs:
        ended(keeper, {"id": job, "state": "queued"})


def test_a_job_does_not_keep_the_texts_of_its_labels(keeper, runtime, monkeypatch) -> None:
    """Labels as long as they may be, spaces around a class's name: a job that waits keeps the names of its network, not these."""
    slow, memory = Slow(monkeypatch, runtime), service_of(keeper.application).memory
    jobs = [keeper.post(ADAPT, data=body, headers=headers).json for body, headers in [binary(np.ones((1, 1, 32, 32)))]]
    assert slow.begun.wait(20)
    numbers, names = np.ones((500, 1, 32, 32), dtype="<f4").tobytes(), runtime.labels(runtime.signature("plain"))
    image = {"name": "image", "datatype": "FP32", "shape": [500, 1, 32, 32], "parameters": {"binary_data_size": len(numbers)}}  # fmt: skip
    label = {"name": "label", "datatype": "BYTES", "shape": [500], "data": [names[i % 2].ljust(256, "\u3000") for i in range(500)]}  # fmt: skip
    head = json.dumps({"inputs": [image, label]}, ensure_ascii=False).encode()
    tracemalloc.start()
    for _ in range(4):
        headers = {HEAD: str(len(head)), "Content-Type": "application/octet-stream"}
        jobs.append(keeper.post(f"{ALICE}/personalize", data=head + numbers, headers=headers).json)
        gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert memory.used >= 4 * len(numbers)
    assert held - memory.used < 1 << 20  # the texts take two
    for job in jobs:
        assert keeper.delete(f"/v1/jobs/{job['id']}").status_code == 200
    slow.go.set()


def test_a_job_that_ended_holds_nothing(runtime, store, samples, monkeypatch) -> None:
    """What a job of the server holds is counted until it has ended, and given back then; samples that no job may hold are refused."""
    slow, app = Slow(monkeypatch, runtime), create_app(runtime, store=store, settings=Settings(memory_bytes=1 << 20))
    client, memory = app.test_client(), service_of(app).memory
    body, headers = binary(samples[0][:40])
    job = client.post(ADAPT, data=body, headers=headers).json
    assert slow.begun.wait(20)
    assert memory.used == samples[0][:40].nbytes
    body, headers = binary(np.zeros((200, 1, 32, 32)))
    assert client.post(ADAPT, data=body, headers=headers).status_code == 413
    slow.go.set()
    assert ended(client, job)["state"] == "done"
    end = time.monotonic() + 20
    while memory.used and time.monotonic() < end:
        time.sleep(0.05)
    assert memory.used == 0


@pytest.mark.parametrize("outputs", [None, [{"name": "label"}]])
def test_samples_times_classes_is_bounded(outputs, keeper, runtime) -> None:
    """Four kilobytes for a network of thousands of classes: 413 in place of a hundred megabytes; a few samples are answered."""
    keeper.put("/v1/models/plain/signatures/alice", data=many_classes(runtime.bundle, "plain").encode())
    for count, status in ((2500, 413), (2, 200)):
        body, headers = binary(np.zeros((count, 1, 32, 32)), outputs=outputs, signature="alice")
        answer, peak = posted(keeper, body, **headers)
        assert answer.status_code == status, answer.json
        assert len(answer.data) < 1 << 20
        assert peak < 48 << 20


@pytest.mark.parametrize("verb", ["personalize", "adapt"])
def test_samples_times_classes_of_a_job_is_bounded(verb, keeper, runtime) -> None:
    """A few thousand samples for a user with thousands of classes: 413, and nothing is learned from them."""
    keeper.put(ALICE, data=many_classes(runtime.bundle, "plain").encode())
    x = np.ones((2500, 1, 32, 32), dtype=np.float32)
    body, headers = labelled(x, [i % 2 for i in range(len(x))]) if verb == "personalize" else binary(x)
    answer = keeper.post(f"{ALICE}/{verb}", data=body, headers=headers)
    assert (answer.status_code, "2,500 samples of 2,000 classes" in answer.json["error"]) == (413, True), answer.json
    assert keeper.get(f"{ALICE}/jobs").json == {"jobs": []}


def labelled(x, indices) -> tuple[bytes, dict]:
    """A body with samples and indices of classes, both binary, and its header."""
    numbers, labels = np.asarray(x, "<f4").tobytes(), np.asarray(indices, "<i8").tobytes()
    inputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, kind, shape, data in (
            ("image", "FP32", list(x.shape), numbers),
            ("label", "INT64", [len(indices)], labels),
        )
    ]
    head = json.dumps({"inputs": inputs}).encode()
    return head + numbers + labels, {HEAD: str(len(head)), "Content-Type": "application/octet-stream"}


def test_as_many_samples_as_are_allowed(runtime) -> None:
    """The declared number is judged before anything is made of it."""
    client = create_app(runtime, settings=Settings(max_samples=3)).test_client()
    for count in (4, 1 << 31):
        answer = client.post(INFER, data=image("[]", samples=count))
        assert answer.status_code == 413
        assert f"{count:,} samples came, but the limit for a request is 3" in answer.json["error"]
    body, headers = binary(np.zeros((3, 1, 32, 32)))
    assert client.post(INFER, data=body, headers=headers).status_code == 200


def test_no_memory_is_503_and_never_500(runtime, monkeypatch) -> None:
    """numpy's own word that there is not enough memory becomes one line, with Retry-After."""
    monkeypatch.setattr(type(runtime), "predict", lambda *_: np.empty(1 << 59))
    client = create_app(runtime).test_client()
    body, headers = binary(np.zeros((1, 1, 32, 32)))
    answer = client.post(INFER, data=body, headers=headers)
    assert answer.status_code == 503
    assert "ran out of memory" in answer.json["error"]
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (image("[]", samples=0, more=f',"id":"{"x" * 131_073}"'), "$.id: at most 131072 characters"),
        (image("[]", samples=0, more=',"parameters":{"signature":"alice","signature":"bob"}'), "has the member 'signature' twice"),
        (image("[" + "9" * 400 + ",0" * 1023 + "]"), "too large for FP32"),
        (image("[true" + ",0" * 1023 + "]"), "something else is among them"),
        (image("[NaN" + ",0" * 1023 + "]"), "not finite"), (image("[1e999" + ",0" * 1023 + "]"), "not finite"),
        (image("[" * 900 + "]" * 900), "but a list of 1 came inside"),
        (image('[{"a":' * 400 + "1" + "}]" * 400), "numbers or lists"),
        (image("[]", samples=0).replace(b'"image"', json.dumps(["y" * 9999] * 99).encode()), "'image' was expected, but ["),
    ],
    ids=["id", "twice", "large", "true", "NaN", "1e999", "lists", "objects", "name"],
)  # fmt: skip
def test_odd_bodies_get_one_short_line(body, message, client) -> None:
    """400 and what is wrong; what came is quoted in part."""
    answer, peak = posted(client, body)
    assert answer.status_code == 400
    assert message in answer.json["error"]
    assert len(answer.json["error"]) < 1000
    assert peak < 8 << 20


def test_minus_zero_stays(client, runtime) -> None:
    """-0 is a number, and the answer is that of the same numbers as bytes."""
    answer = client.post(INFER, data=image("[-0.0" + ",0" * 1023 + "]")).json["outputs"][0]["data"]
    expected = runtime.predict(np.zeros((1, 1, 32, 32), dtype=np.float32), runtime.signature("plain"))
    assert np.array_equal(np.float32(answer), expected[0])


def test_a_signature_file_with_a_huge_header_is_refused_unread(keeper) -> None:
    """Four megabytes of names are not read; a header as long as one may be takes a bounded amount."""
    header = json.dumps({"__metadata__": {}, **{f"t{i}": [] for i in range(HEADER_LIMIT // 9)}}).encode()
    file = len(header).to_bytes(8, "little") + header
    answer, peak = posted_file(keeper, file)
    assert answer.status_code == 400
    assert "claims a header" in answer.json["error"]
    assert peak < 5 * len(file)
    with pytest.raises(SignatureError, match="claims a header"):
        Signature.decode(file)


def posted_file(client, file: bytes):
    """The answer to a put, and how much was allocated for it at most."""
    tracemalloc.start()
    try:
        return client.put("/v1/models/plain/signatures/alice", data=file), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_labels_are_counted_before_they_are_read(keeper) -> None:
    """A megabyte of empty texts is not a list of 250,000 labels for one sample."""
    tensors = [
        {"name": "image", "datatype": "FP32", "shape": [1, 1, 32, 32], "parameters": {"binary_data_size": 4096}},
        {"name": "label", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 1 << 20}},
    ]
    head = json.dumps({"inputs": tensors}).encode()
    path = "/v1/models/plain/signatures/alice/personalize"
    answer, peak = posted(keeper, head + bytes(4096 + (1 << 20)), path, **{HEAD: str(len(head))})
    assert answer.status_code == 400
    assert "1 labels were expected, but more came" in answer.json["error"]
    assert peak < 6 << 20
    long = ((1 << 20) - 4).to_bytes(4, "little") + b"x" * ((1 << 20) - 4)
    for sent, head_bytes in ((head + bytes(4096) + long, len(head)), (head.replace(
        b'"parameters": {"binary_data_size": 1048576}', b'"data": ["%b"]' % (b"x" * 257)) + bytes(4096), None)):  # fmt: skip
        head_bytes = len(sent) - 4096 if head_bytes is None else head_bytes
        answer, _ = posted(keeper, sent, path, **{HEAD: str(head_bytes)})
        assert (answer.status_code, "labels of at most 256 characters" in answer.json["error"]) == (400, True), (
            answer.json
        )
