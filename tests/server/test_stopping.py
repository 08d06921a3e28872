"""A real server under strain: idle and stalled clients, a full queue, SIGTERM with requests and jobs under way."""

import contextlib
import http.client
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import serving

INFER = "/v2/models/plain/infer"


def body(count) -> bytes:
    """A binary request for so many predictions."""
    tensor = {
        "name": "image",
        "shape": [count, 1, 32, 32],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 4096 * count},
    }
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}).encode()
    return head + bytes(4096 * count), {"Inference-Header-Content-Length": str(len(head))}


def ask(server, path, data=None, headers=None, method=None) -> tuple[int, dict, object]:
    """Status, headers and body of an answer."""
    request = urllib.request.Request(server.url + path, data, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, dict(problem.headers), json.loads(problem.read())


def test_silent_clients_keep_nobody_waiting(compiled) -> None:
    """Many connections that say nothing, and as many halves of requests as there are threads but one: others are answered at once."""
    with serving(compiled, "--open", "--store", "none", "--threads", "3") as server, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(server.address, timeout=5)) for _ in range(40)]
        for connection in connections[:2]:
            connection.sendall(b"POST /v2/models/plain/infer HTTP/1.1\r\nContent-Le")
        time.sleep(0.3)
        for _ in range(5):
            began = time.monotonic()
            assert ask(server, INFER, *body(1))[0] == 200
            assert time.monotonic() - began < 3


def test_keep_alive_and_pipelining(compiled) -> None:
    """One connection answers many requests, in order, also when they are sent before the first is answered; then it may be closed."""
    with serving(compiled, "--open", "--store", "none", "--threads", "2") as server:
        connection = http.client.HTTPConnection(*server.address, timeout=20)
        for i in range(20):
            connection.request("POST", INFER, *body(1 + i % 3))
            answer = connection.getresponse()
            assert answer.status == 200
            assert len(json.loads(answer.read())["outputs"][0]["data"]) == 1 + i % 3
            if i % 7 == 6:
                time.sleep(0.05)  # longer than a thread waits
        connection.close()
        request = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
        with socket.create_connection(server.address, timeout=20) as plain:
            plain.sendall(4 * request + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            received = b""
            while part := plain.recv(65536):
                received += part
        assert received.count(b"HTTP/1.1 200 OK") == 5


def test_a_full_queue(compiled) -> None:
    """When more requests come than may wait, some get 503 at once and when to come again; the others are answered."""
    with serving(compiled, "--open", "--store", "none", "--threads", "1", "--queue", "2") as server:
        request = body(600)
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: ask(server, INFER, *request), range(16)))
        statuses = [status for status, *_ in answers]
        assert set(statuses) == {200, 503}
        for status, headers, content in answers:
            if status == 503:
                assert headers["Retry-After"] == "1"
                assert "2 requests wait" in content["error"]
        assert ask(server, INFER, *body(1))[0] == 200


@pytest.mark.parametrize("behind", ["gunicorn", "waitress"])
def test_sigterm(behind, compiled, tmp_path) -> None:
    """Readiness goes off first, while requests are answered; what is under way ends; then the server is gone, with exit 0."""
    with serving(
        compiled, "--open", "--store", tmp_path / "s.db", "--behind", behind, "--drain-seconds", "2"
    ) as server:
        assert ask(server, "/v2/health/ready")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        for _ in range(100):
            status = ask(server, "/v2/health/ready")[0]
            if status == 503:
                break
            time.sleep(0.01)
        assert status == 503
        assert ask(server, INFER, *body(1))[0] == 200
        found = list[int]()
        late = threading.Thread(target=lambda: found.append(ask(server, INFER, *body(2000))[0]))
        time.sleep(1.6)
        late.start()
        assert server.process.wait(30) == 0
        late.join(30)
        assert found == [200]
        with pytest.raises(OSError, match=r"refused|reset"):
            ask(server, "/v2/health/live")


def test_a_running_job_is_finished(compiled, samples, tmp_path) -> None:
    """SIGTERM while a signature is being learned: it is written before the server is gone."""
    store = tmp_path / "s.db"
    data = {
        "inputs": [
            {
                "name": "image",
                "shape": [40, 1, 32, 32],
                "datatype": "FP32",
                "data": (1 - samples[0][:40]).ravel().tolist(),
            },
            {"name": "label", "shape": [40], "datatype": "INT64", "data": samples[1][:40].tolist()},
        ]
    }
    with serving(compiled, "--open", "--store", store) as server:
        status, _, job = ask(server, "/v1/models/plain/signatures/alice/personalize", json.dumps(data).encode())
        assert status == 202
        for _ in range(300):
            state = ask(server, f"/v1/jobs/{job['id']}")[2]["state"]
            if state != "queued":
                break
            time.sleep(0.01)
        assert state == "running"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(40) == 0
    with serving(compiled, "--open", "--store", store) as server:
        found = ask(server, f"/v1/jobs/{job['id']}")[2]
        assert (found["state"], found["revision"]) == ("done", 1)
        assert ask(server, "/v1/models/plain/signatures/alice")[2]["revision"] == 1
