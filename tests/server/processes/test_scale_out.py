"""The example for many machines: nginx, two replicas, one PostgreSQL, all of them real."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import numpy as np
import pytest
from postgres import POSTGRES
from support import ROOT

pytestmark = pytest.mark.skipif(
    POSTGRES is None or shutil.which("nginx", path="/usr/sbin:/usr/bin") is None,
    reason="nginx and PostgreSQL are not installed",
)
USERS = [f"user-{i}" for i in range(24)]


class Client:
    """Asks with the example's key."""

    def __init__(self, key) -> None:
        self.key = key

    def __call__(self, url, data=None, user=None, method=None):
        """Status and body."""
        headers = {"Authorization": f"Bearer {self.key}", **({"Isoform-Signature": user} if user else {})}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, data, headers, method=method), timeout=60
            ) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as problem:
            with problem:
                return problem.code, problem.read()

    def predictions(self, url) -> float:
        """How many a replica has made."""
        page = self(f"{url}/metrics")[1].decode()
        return sum(
            float(count) for count in re.findall(r'isoform_infer_samples_total\{task="plain"\} ([\d.e+]+)', page)
        )


def free_ports(count) -> list[str]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [str(probe.getsockname()[1]) for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def example(compiled):
    """What the running example says of itself."""
    script = str(ROOT / "docs" / "examples" / "scale_out.py")
    with tempfile.TemporaryDirectory(prefix="isoform-") as folder:  # a socket's path must be short
        os.chmod(folder, 0o755)  # PostgreSQL runs as somebody else
        process = subprocess.Popen(
            [sys.executable, script, str(compiled), "-o", folder, "--ports", *free_ports(3)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        line = process.stdout.readline()
        try:
            assert line, process.communicate(timeout=30)[1]
            yield json.loads(line)
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors, errors


def test_one_system(example, runtime, samples) -> None:
    """What is written through nginx every replica answers with; users are spread, each to one replica; one that is killed is not missed."""
    ask, base = Client(example["key"]), runtime.signature("plain")
    body = json.dumps(
        {
            "inputs": [
                {"name": "image", "shape": [1, 1, 32, 32], "datatype": "FP32", "data": samples[0][0].ravel().tolist()}
            ]
        }
    ).encode()
    expected = {}
    for i, user in enumerate(USERS):
        signature = base.keep("mixture") if i % 2 else base
        status, answer = ask(f"{example['url']}/v1/models/plain/signatures/{user}", signature.encode(), method="PUT")
        assert status == 201, answer
        expected[user] = json.loads(answer)["digest"]

    def digest(url, user):
        status, answer = ask(f"{url}/v2/models/plain/infer", body, user)
        assert status == 200, answer
        return json.loads(answer)["parameters"]["digest"]

    replicas = [replica["url"] for replica in example["replicas"]]
    for url in (example["url"], *replicas):
        assert {user: digest(url, user) for user in USERS} == expected
    before = [ask.predictions(url) for url in replicas]
    for _ in range(10):
        digest(example["url"], USERS[0])
    assert sorted(np.subtract([ask.predictions(url) for url in replicas], before).tolist()) == [0, 10]
    before = [ask.predictions(url) for url in replicas]
    for user in USERS:
        digest(example["url"], user)
    spread = np.subtract([ask.predictions(url) for url in replicas], before)
    assert spread.sum() == len(USERS)
    assert spread.min() >= 3
    assert ask(f"{example['url']}/metrics")[0] == 404
    os.killpg(example["replicas"][0]["pid"], signal.SIGKILL)
    assert {user: digest(example["url"], user) for user in USERS} == expected
