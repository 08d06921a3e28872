"""What dead processes counted is kept in one file per kind, and a reader sees every number once, whenever it looks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from serving import serving

pytestmark = pytest.mark.trust
PROCESSES = 30
COUNT = """
import os
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.values import MultiProcessValue
from prometheus_client import values
registry = CollectorRegistry()
for number in range(1, {processes} + 1):
    values.ValueClass = MultiProcessValue(process_identifier=lambda: number)
    own = CollectorRegistry()
    Counter("done_total", "Done.", ["task"], registry=own).labels("ä").inc(number)
    Histogram("took_seconds", "Took.", registry=own, buckets=(1.0,)).observe(0.5)
    Gauge("held_bytes", "Held.", registry=own, multiprocess_mode="livesum").set(7)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """The numbers of thirty processes."""
    code, environ = COUNT.format(processes=PROCESSES), {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)
    assert len(list(tmp_path.glob("*.db"))) == 3 * PROCESSES
    return tmp_path


def read(folder: Path) -> str:
    """The page."""
    from isoform.server.telemetry.metric_files import MetricFiles

    with MetricFiles(folder).reading() as registry:
        return generate_latest(registry).decode()


def test_nothing_is_lost_or_seen_twice(folder) -> None:
    """While thirty dead processes are folded one by one, readers all see the same sums; gauges of dead ones go, two files are left."""
    from isoform.server.telemetry.metric_files import MetricFiles

    sums = [f'done_total{{task="ä"}} {float(PROCESSES * (PROCESSES + 1) // 2)}', f"took_seconds_count {float(PROCESSES)}",
            f'took_seconds_bucket{{le="1.0"}} {float(PROCESSES)}', f"took_seconds_sum {PROCESSES / 2}"]  # fmt: skip
    seen, done = list[bool](), threading.Event()

    def look() -> None:
        while not done.is_set():
            page = read(folder)
            seen.append(all(line in page for line in sums))

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, PROCESSES + 1):
        MetricFiles(folder).fold(number)
        MetricFiles(folder).fold(number)  # nothing is left to fold
    done.set()
    for reader in readers:
        reader.join()
    assert len(seen) > 3
    assert all(seen)
    page = read(folder)
    assert all(line in page for line in sums)
    assert "held_bytes 7" not in page
    assert sorted(path.name for path in folder.glob("*.db")) == ["counter_0.db", "histogram_0.db"]


def test_what_cannot_be_folded_stays(folder, caplog) -> None:
    """A file that is damaged is said in a line, and the process that folds goes on."""
    from isoform.server.telemetry.metric_files import MetricFiles

    damaged = folder / "counter_1.db"
    damaged.write_bytes(b"\x00\x01\x00\x00" + b"\xff" * 200)
    MetricFiles(folder).fold(1)
    assert "process 1, its files stay" in caplog.text
    assert damaged.exists()
    MetricFiles(folder).fold(2)
    assert not (folder / "counter_2.db").exists()


def test_a_server_that_loses_processes(compiled, tmp_path) -> None:
    """After processes were killed, /metrics still has what they counted, and no file of theirs."""

    def ask(path: str) -> bytes:
        with urllib.request.urlopen(server.url + path, timeout=30) as answer:
            return answer.read()

    def served() -> float:
        lines = ask("/metrics").decode().splitlines()
        return sum(
            float(line.split()[-1])
            for line in lines
            if line.startswith("isoform_requests_total{") and "/v2/models/" in line
        )

    def numbers() -> set[str]:
        return {path.stem.rsplit("_", 1)[1] for path in folder.glob("*.db")}

    with serving(compiled, "--open", "--store", "none") as server:
        (folder,) = [
            path
            for base in (Path("/dev/shm"), tmp_path)
            for path in base.glob(f"isoform-metrics-{server.process.pid}-*")
        ]
        for killed in (1, 2):
            for _ in range(5):
                ask("/v2/models/plain/ready")
            (worker,) = map(
                int, Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
            )
            os.kill(worker, signal.SIGKILL)
            until = time.monotonic() + 60
            while str(worker) in numbers() or not numbers() - {"0"}:
                assert time.monotonic() < until
                time.sleep(0.05)
            assert json.loads(ask("/v2/health/live")) == {"live": True}
            assert served() == 5 * killed
        assert len(numbers()) == 2
