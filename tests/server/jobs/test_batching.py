"""Concurrent requests for one network are run together, and each gets what it would have got alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from formed import with_forms
from host_device import host_engine

from isoform.runtime import Runtime
from isoform.runtime.engines.tensorrt import engine
from isoform.runtime.errors import InputError, SignatureError
from isoform.runtime.formats.signature import Signature
from isoform.server.app import create_app
from isoform.server.exchange.problems import DeadlineError
from isoform.server.service.batching import Batching
from isoform.server.service.service import service_of
from isoform.server.service.settings import Settings


class Slow:
    """A runtime's predictions, of which the first waits until ``go`` is set; notes what was run."""

    def __init__(self, runtime) -> None:
        self.runtime, self.ran = runtime, []
        self.begun, self.go = threading.Event(), threading.Event()

    def predict(self, x, signature):
        """As the runtime."""
        self.ran.append(
            (len(x), signature.digest if isinstance(signature, Signature) else [one.digest for one in signature])
        )
        self.begun.set()
        assert self.go.wait(30)
        return self.runtime.predict(x, signature)


def gathered(runtime, requests, *, until=np.inf, **options):
    """Send one request, and the others while it runs; returns what each came to, and what was run."""
    slow = Slow(runtime)
    batching = Batching(slow.predict, ran=lambda *_: None, **options)

    def ask(request):
        try:
            return batching.predict(*request, until=until)
        except Exception as problem:
            return problem

    with ThreadPoolExecutor(len(requests)) as pool:
        first = pool.submit(ask, requests[0])
        assert slow.begun.wait(30)
        others = [pool.submit(ask, request) for request in requests[1:]]
        for _ in range(3000):  # until all of them stand in line
            if sum(len(line.waiting) for line in batching._lines.values()) >= len(requests) - 1:
                break
            time.sleep(0.01)
        else:
            slow.go.set()
            raise AssertionError("they do not stand in line")
        slow.go.set()
        results = [future.result(60) for future in (first, *others)]
    assert not batching._lines
    return results, [count for count, _ in slow.ran]


def test_together_and_each_its_own(runtime, samples) -> None:
    """Requests that come while one runs are run together, and each gets its own logits."""
    base = runtime.signature("plain")
    parts = [samples[0][i : i + 1 + i % 3] for i in range(9)]
    results, ran = gathered(runtime, [(part, base) for part in parts], samples=64)
    assert ran == [1, sum(map(len, parts[1:]))]
    for part, logits in zip(parts, results, strict=True):
        np.testing.assert_allclose(logits, runtime.predict(part, base), atol=1e-4)


def test_never_more_than_the_limit(runtime, samples) -> None:
    """No batch has more samples than it may, and requests are not split; one that has as many by itself runs alone at once."""
    base = runtime.signature("plain")
    sizes = [1, 3, 3, 3, 1, 2]
    results, ran = gathered(runtime, [(samples[0][:size], base) for size in sizes], samples=7)
    assert [len(logits) for logits in results] == sizes
    assert sum(ran) == sum(sizes)
    assert ran[0] == 1
    assert max(ran) <= 7
    assert len(ran) <= 4
    seen = []
    Batching(runtime.predict, samples=4, ran=lambda *ran: seen.append(ran)).predict(samples[0][:9], base)
    assert seen == [("plain", 9)]


def test_users_are_not_mixed(runtime, samples) -> None:
    """Requests for other networks are never in this one's batch."""
    x, names = samples[0][:2], runtime.tasks
    signatures = [runtime.signature(names[i % len(names)]) for i in range(16)]
    seen = []

    def predict(x, signature):
        seen.append((len(x), signature.digest))
        return runtime.predict(x, signature)

    batching = Batching(predict, samples=8, delay_seconds=1.0, ran=lambda *_: None)
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda signature: batching.predict(x, signature), signatures))
    for signature, logits in zip(signatures, results, strict=True):
        np.testing.assert_allclose(logits, runtime.predict(x, signature), atol=1e-4)
    assert sum(count for count, _ in seen) == 32
    assert max(count for count, _ in seen) <= 8  # four requests for each of the four tasks
    assert len(seen) < 16
    assert {digest for _, digest in seen} == {signature.digest for signature in signatures}


def test_users_are_mixed_where_the_engine_can(runtime, samples) -> None:
    """Requests of several users run in one batch, each sample with its own signature; requests of another task have a batch of their own."""
    first, second = runtime.signature("plain"), runtime.signature("edges")
    third = second.replace(parts={**second.parts, "logits.bias": second.parts["logits.bias"] + 1})
    parts = [samples[0][i : i + 1 + i % 3] for i in range(10)]
    asked = [(part, (first, second, third)[i % 3]) for i, part in enumerate(parts)]
    results, ran = gathered(runtime, asked, samples=64, alike=lambda signature: len(signature.labels))
    assert ran == [1, sum(map(len, parts[1:]))]
    for (part, signature), logits in zip(asked, results, strict=True):
        np.testing.assert_allclose(logits, runtime.predict(part, signature), atol=1e-4)
    tasks = list[set[str]]()

    def predict(x, signature):
        tasks.append({signature.task} if isinstance(signature, Signature) else {one.task for one in signature})
        return runtime.predict(x, signature)

    batching = Batching(
        predict, samples=64, delay_seconds=1.0, ran=lambda *_: None, alike=lambda signature: signature.task
    )
    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(lambda request: batching.predict(*request), asked))
    for (part, signature), logits in zip(asked, results, strict=True):
        np.testing.assert_allclose(logits, runtime.predict(part, signature), atol=1e-4)
    assert all(len(some) == 1 for some in tasks)
    assert len(tasks) < 10


def test_only_the_guilty_user_fails(runtime, samples) -> None:
    """A signature that does not fit fails its own request, not those of the users it shares a batch with."""
    base, other = runtime.signature("plain"), runtime.signature("edges")
    stranger = other.replace(template="0" * 64)
    asked = [(samples[0][i : i + 1], signature) for i, signature in enumerate((base, other, stranger, base))]
    results, _ = gathered(runtime, asked, samples=64, alike=lambda signature: len(signature.labels))
    assert isinstance(results[2], SignatureError)
    for i in (0, 1, 3):
        np.testing.assert_allclose(results[i], runtime.predict(*asked[i]), atol=1e-4)


def test_only_the_guilty_one_fails(runtime, samples) -> None:
    """A sample that is no number fails its own request, with its own index, and the others are answered."""
    base = runtime.signature("plain")
    bad = samples[0][:2].copy()
    bad[1, 0, 3, 3] = np.nan
    results, _ = gathered(runtime, [(samples[0][:1], base), (samples[0][1:2], base), (bad, base), (samples[0][2:3], base)], samples=64)  # fmt: skip
    assert isinstance(results[2], InputError)
    assert "1" in str(results[2])
    for i, logits in ((1, results[1]), (2, results[3])):
        np.testing.assert_allclose(logits, runtime.predict(samples[0][i : i + 1], base), atol=1e-4)


def test_who_waited_too_long_is_not_run(runtime, samples) -> None:
    """A request whose time is over when its turn comes is refused, and not run."""
    base = runtime.signature("plain")
    slow = Slow(runtime)
    batching = Batching(slow.predict, samples=8, ran=lambda *_: None)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batching.predict, samples[0][:1], base)
        assert slow.begun.wait(30)
        second = pool.submit(batching.predict, samples[0][:1], base, until=time.perf_counter() + 0.02)
        time.sleep(0.1)
        slow.go.set()
        with pytest.raises(DeadlineError, match=r"the deadline passed \d+\.\d ms before the prediction could run"):
            second.result(30)
        assert first.result(30).shape == (1, 10)
    assert [count for count, _ in slow.ran] == [1]


def test_a_bug_reaches_everybody_and_stops_nobody(runtime, samples) -> None:
    """What goes wrong inside goes to all whose batch it was; the next request is run as ever."""
    base = runtime.signature("plain")
    wrong, calls = [True], []

    def predict(x, signature):
        calls.append(len(x))
        if wrong[0]:
            raise ZeroDivisionError
        return runtime.predict(x, signature)

    batching = Batching(predict, samples=4, delay_seconds=1.0, ran=lambda *_: None)

    def ask(_):
        with pytest.raises(ZeroDivisionError):
            batching.predict(samples[0][:1], base)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    assert sum(calls) == 4
    assert len(calls) < 4
    wrong[0] = False
    assert batching.predict(samples[0][:1], base).shape == (1, 10)


def test_by_the_server_with_an_engine_that_mixes_users(compiled, tmp_path, monkeypatch, samples) -> None:
    """Of one task, and with as many classes: that decides who may share a batch; answers over HTTP are the users' own."""
    bundle = with_forms(compiled, tmp_path / "bundle")
    monkeypatch.setattr(
        engine, "open_engine", lambda bundle, *, cache_bytes, **_: host_engine(bundle, cache_bytes=cache_bytes)
    )
    with Runtime.open(bundle.path, engine="tensorrt") as mixing, Runtime.open(bundle.path, engine="sessions") as plain:
        assert (mixing.mixes, plain.mixes) == (True, False)
        app = create_app(mixing, settings=Settings(batch_samples=8, batch_delay_seconds=1.0))
        base = mixing.signature("plain")
        assert service_of(app).batching._alike(base) == ("plain", 10)
        assert service_of(create_app(plain, settings=Settings(batch_samples=8))).batching._alike(base) == base.digest

        def ask(i):
            tensor = {
                "name": "image",
                "shape": [1, 1, 32, 32],
                "datatype": "FP32",
                "data": samples[0][i].ravel().tolist(),
            }
            answer = app.test_client().post(f"/v2/models/{mixing.tasks[i % 4]}/infer", json={"inputs": [tensor]})
            return answer.json["outputs"][0]["data"]

        with ThreadPoolExecutor(8) as pool:
            found = np.array(list(pool.map(ask, range(8))), np.float32)
        expected = plain.predict(samples[0][:8], [plain.signature(plain.tasks[i % 4]) for i in range(8)])
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_by_the_server(runtime, samples) -> None:
    """With ``batch_samples`` concurrent requests over HTTP are run together, and metrics say how many."""
    client = create_app(runtime, settings=Settings(batch_samples=8, batch_delay_seconds=1.0)).test_client()
    tensor = {"name": "image", "shape": [1, 1, 32, 32], "datatype": "FP32"}

    def ask(i):
        answer = client.application.test_client().post(
            "/v2/models/plain/infer", json={"inputs": [{**tensor, "data": samples[0][i].ravel().tolist()}]}
        )
        return answer.json["outputs"][0]["data"]

    with ThreadPoolExecutor(8) as pool:
        found = np.array(list(pool.map(ask, range(8))), np.float32)
    np.testing.assert_allclose(found, runtime.predict(samples[0][:8], runtime.signature("plain")), atol=1e-4)
    page = client.get("/metrics").text
    count, total = (
        float(page.split(f'isoform_batch_samples_{what}{{task="plain"}} ')[1].split()[0]) for what in ("count", "sum")
    )
    assert total == 8
    assert count < 8
