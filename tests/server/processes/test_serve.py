"""``isoform serve`` as a process: real sockets, real signals."""

import argparse
import concurrent.futures
import json
import socket
import types
import urllib.error
import urllib.request

import numpy as np
import pytest
from serving import serving
from support import isoform_here

from isoform.runtime.errors import BundleError
from isoform.runtime.formats.bundle import Bundle
from isoform.server.app import create_app
from isoform.server.commands import serve


@pytest.fixture(scope="module")
def server(compiled, tmp_path_factory):
    """A running server's first line of output."""
    store = tmp_path_factory.mktemp("served") / "signatures.db"
    with serving(compiled, "--max-body-mb", "1", "--store", store, "--open") as server:
        yield server.started


def post(url, task, x):
    """Ask for a prediction."""
    request = {"inputs": [{"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}]}
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/v2/models/{task}/infer", json.dumps(request).encode()), timeout=60
    ) as answer:
        return json.load(answer)


def test_concurrent_predictions_are_the_local_ones(server, runtime, samples) -> None:
    """Many clients at once, on all tasks, each get their own task's answer to the bit."""
    x = samples[0][:40].reshape(20, 2, 1, 32, 32)
    jobs = [(task, part) for part in x for task in server["tasks"]]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda job: post(server["url"], *job), jobs))
    assert len(answers) == 80
    for (task, part), answer in zip(jobs, answers, strict=True):
        assert answer["model_name"] == task
        logits = np.array(answer["outputs"][0]["data"], np.float32).reshape(2, 10)
        assert np.array_equal(logits, runtime.predict(part, runtime.signature(task)))


def test_a_long_body_is_413_over_the_wire(server) -> None:
    """A body over the limit is refused by the running server, and the next request is answered."""
    request = urllib.request.Request(f"{server['url']}/v2/models/plain/infer", b" " * ((1 << 20) + 100))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=20)
    with caught.value as problem:
        assert problem.code == 413
    with urllib.request.urlopen(f"{server['url']}/v2/health/ready", timeout=20) as answer:
        assert answer.status == 200


def test_half_a_request_harms_nobody(server) -> None:
    """A client that stops in the middle does not stop the server."""
    host, port = server["url"].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"POST /v2/models/plain/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    with urllib.request.urlopen(f"{server['url']}/v2/health/live", timeout=20) as answer:
        assert json.load(answer) == {"live": True}


@pytest.mark.parametrize("threads", [2, 3, 4, 5, 16])
def test_a_thread_is_left(threads, compiled, monkeypatch) -> None:
    """Long requests and requests that wait for jobs cannot have all threads together."""
    monkeypatch.setattr(serve, "_set_up_logs", lambda: None)
    parser = argparse.ArgumentParser()
    serve.add_arguments_serve(parser)
    words = [str(compiled), "--open", "--store", "none", "--threads", str(threads)]
    settings = serve.opened(parser.parse_args(words))[0].settings
    assert settings.long_requests == threads // 2
    assert settings.waiters + settings.long_requests == threads - 1


def test_a_task_named_like_a_route(compiled, tmp_path) -> None:
    """``/v2/models/stats`` is the statistics of all tasks: a bundle with a task of that name is refused, by the command and by the application."""
    bundle = Bundle.load(compiled)
    base = bundle.signatures["plain"].replace(task="stats")
    Bundle.create(spec=bundle.spec, tensors=bundle.tensors, signatures={"stats": base}, training=bundle.training).write(
        tmp_path / "bundle"
    )
    result = isoform_here("serve", tmp_path / "bundle", "--open", "--store", "none")
    assert result.returncode == 2
    assert "the bundle has a task named 'stats'" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    with pytest.raises(BundleError, match="/v2/models/stats is the statistics of all tasks"):
        create_app(types.SimpleNamespace(tasks=("plain", "stats")))


def test_misuse(compiled) -> None:
    """A port that is taken, out of range, or no workers: one line and exit 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words, message in (
            (["--port", str(port)], "cannot listen on"), (["--port", "99999"], "--port is 99999"), (["--workers", "0"], "--workers is 0"),
            (["--unix", "/nowhere/x"], "cannot listen on /nowhere/x"), (["--tls-key", "x.pem"], "--tls-certificate and --tls-key are needed together"),
            (["--tls-certificate", "x.pem", "--tls-key", "x.pem"], "cannot use --tls-certificate x.pem"),
            (["--store", "nosuch://x"], "cannot open the signature store"),
        ):  # fmt: skip
            result = isoform_here("serve", compiled, "--open", "--store", "none", *words)
            assert result.returncode == 2
            assert message in result.stderr
            assert len(result.stderr.splitlines()) == 1
