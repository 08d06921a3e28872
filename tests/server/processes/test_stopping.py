"""A real server under strain: idle and stalled clients, a full queue, SIGTERM with requests and jobs under way."""

import contextlib
import http.client
import json
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import ask, serving

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


def asked(server, request):
    """As ``ask``; None where the server was done with the connection before all was sent."""
    try:
        return ask(server, "POST", INFER, *request)
    except OSError:
        return None


def test_silent_clients_keep_nobody_waiting(compiled) -> None:
    """Many connections that say nothing, and as many halves of requests as there are threads: others are answered at once."""
    with serving(compiled, "--open", "--store", "none", "--threads", "3") as server, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(server.address, timeout=5)) for _ in range(40)]
        for connection in connections[:3]:
            connection.sendall(b"POST /v2/models/plain/infer HTTP/1.1\r\nContent-Le")
        time.sleep(0.3)
        for _ in range(5):
            began = time.monotonic()
            assert ask(server, "POST", INFER, *body(1))[0] == 200
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
        data, headers = body(1)
        length = headers["Inference-Header-Content-Length"]
        head = f"Content-Length: {len(data)}\r\nInference-Header-Content-Length: {length}\r\n"
        requests = [
            f"POST {INFER} HTTP/1.1\r\nX-Request-Id: r{i}\r\n{head}\r\n".encode() + data if i % 2
            else f"GET /v2 HTTP/1.1\r\nX-Request-Id: r{i}\r\n\r\n".encode()
            for i in range(8)
        ]  # fmt: skip
        requests.append(b"HEAD /v2/models/plain/infer HTTP/1.1\r\nX-Request-Id: r8\r\n\r\n")
        requests.append(b"GET /v2 HTTP/1.1\r\nX-Request-Id: r9\r\nConnection: close\r\n\r\n")
        with socket.create_connection(server.address, timeout=20) as plain:
            plain.sendall(b"".join(requests))
            received = b""
            while part := plain.recv(65536):
                received += part
        assert re.findall(rb"x-request-id: (r\d)", received) == [f"r{i}".encode() for i in range(10)]
        assert received.count(b"HTTP/1.1 200 OK") == 9
        assert received.count(b"HTTP/1.1 405") == 1


def test_a_head_is_a_head(compiled) -> None:
    """HEAD of a prediction is answered at once, without a body, and the next request of the connection gets its own answer."""
    with serving(compiled, "--open", "--store", "none") as server:
        connection = http.client.HTTPConnection(*server.address, timeout=10)
        for _ in range(3):
            connection.request("HEAD", INFER)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (405, b"")
            connection.request("POST", INFER, *body(2))
            answer = connection.getresponse()
            assert answer.status == 200
            assert len(json.loads(answer.read())["outputs"][0]["data"]) == 2
        connection.close()


def test_an_answer_that_is_not_read(compiled) -> None:
    """A long answer to a client that does not read keeps nobody waiting, and is there when it does."""
    with serving(compiled, "--open", "--store", "none", "--threads", "1") as server:
        tensor = {
            "name": "image",
            "shape": [1, 1, 32, 32],
            "datatype": "FP32",
            "parameters": {"binary_data_size": 4096},
        }
        head = json.dumps({"id": "x" * 80_000, "inputs": [tensor]}).encode()
        request = (
            f"POST {INFER} HTTP/1.1\r\nContent-Length: {len(head) + 4096}\r\nInference-Header-Content-Length: {len(head)}\r\n\r\n"
        ).encode() + head + bytes(4096)  # fmt: skip
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(30)
        with slow:
            slow.connect(server.address)
            for _ in range(3):
                slow.sendall(request)
                time.sleep(0.2)
            for _ in range(5):
                began = time.monotonic()
                assert ask(server, "POST", INFER, *body(1))[0] == 200
                assert time.monotonic() - began < 5
            received = b""
            while received.count(b"x" * 80_000) < 3 or not received.endswith(b"]}"):
                part = slow.recv(65536)
                assert part
                received += part


def test_who_does_not_close_keeps_nobody_waiting(compiled) -> None:
    """Clients that get their last answer and keep their side open do not delay others."""
    with serving(compiled, "--open", "--store", "none", "--threads", "2") as server, contextlib.ExitStack() as stack:
        for _ in range(60):
            connection = stack.enter_context(socket.create_connection(server.address, timeout=5))
            connection.sendall(b"GET /v2 HTTP/1.1\r\nConnection: close\r\n\r\n")
        began = time.monotonic()
        assert ask(server, "GET", "/v2/health/live")[0] == 200
        assert time.monotonic() - began < 5


def test_a_full_queue(compiled) -> None:
    """When more requests come than may wait, some get 503 at once and when to come again; the others are answered."""
    with serving(compiled, "--open", "--store", "none", "--threads", "1", "--queue", "2") as server:
        request = body(300)  # 16 of them are fewer bytes than may be in flight, for which the answer is another 503
        with ThreadPoolExecutor(16) as pool:
            answers = [answer for answer in pool.map(lambda _: asked(server, request), range(16)) if answer]
        statuses = [status for status, *_ in answers]
        assert set(statuses) == {200, 503}
        for status, headers, content in answers:
            if status == 503:
                assert headers["Retry-After"] == "1"
                assert "2 requests wait" in content["error"]
        assert ask(server, "POST", INFER, *body(1))[0] == 200


def test_sigterm(compiled, tmp_path) -> None:
    """Readiness goes off first, while requests are answered; what is under way ends; then the server is gone, with exit 0."""
    with serving(compiled, "--open", "--store", tmp_path / "s.db", "--drain-seconds", "2") as server:
        assert ask(server, "GET", "/v2/health/ready")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        for _ in range(100):
            status = ask(server, "GET", "/v2/health/ready")[0]
            if status == 503:
                break
            time.sleep(0.01)
        assert status == 503
        assert ask(server, "POST", INFER, *body(1))[0] == 200
        found = list[int]()
        late = threading.Thread(target=lambda: found.append(ask(server, "POST", INFER, *body(2000))[0]))
        time.sleep(1.5)
        late.start()
        assert server.process.wait(30) == 0
        late.join(30)
        assert found == [200]
        with pytest.raises(OSError, match=r"refused|reset"):
            ask(server, "GET", "/v2/health/live")


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
        media = {"Content-Type": "application/json"}
        status, _, job = ask(
            server, "POST", "/v1/models/plain/signatures/alice/personalize", json.dumps(data).encode(), media
        )
        assert status == 202
        for _ in range(300):
            state = ask(server, "GET", f"/v1/jobs/{job['id']}")[2]["state"]
            if state != "queued":
                break
            time.sleep(0.01)
        assert state == "running"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(40) == 0
    with serving(compiled, "--open", "--store", store) as server:
        found = ask(server, "GET", f"/v1/jobs/{job['id']}")[2]
        assert (found["state"], found["revision"]) == ("done", 1)
        assert ask(server, "GET", "/v1/models/plain/signatures/alice")[2]["revision"] == 1
