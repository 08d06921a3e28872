"""Every benchmark runs, prints a table, and writes its figures; how fast things are is not a test's business."""

import collections
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench.gpu.contenders import Contenders
from bench.gpu.subjects import make_subject
from bench.swapping.plot import plot_swaps
from host_device import HostDevice, host_loaders
from support import ROOT, benchmark

BENCHMARKS = sorted(
    path.name for folder in (".", "serving", "training") for path in (ROOT / "benchmarks" / folder).glob("*.py")
)


def test_every_benchmark_is_tested() -> None:
    """A benchmark that is added here needs a test below."""
    assert BENCHMARKS == [
        "adapt.py",
        "baselines.py",
        "bounds.py",
        "half_requests.py",
        "isolation.py",
        "loading.py",
        "own_models.py",
        "personalize.py",
        "predict.py",
        "server.py",
        "sizes.py",
        "spoken_words.py",
        "store.py",
        "swap.py",
        "tensorrt_engines.py",
        "train.py",
    ]


def test_tensorrt_engines(tmp_path) -> None:
    """Without a GPU, sizes of engines, and what was not measured."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    printed, figures = benchmark(tmp_path, "tensorrt_engines.py")
    assert figures["small.fp32.build.many.layers"] > figures["small.fp32.build.task.layers"] > 100
    assert figures["small.fp16.build.kernel.mb"] > 0.01
    if figures["gpu"] is None:
        assert "nothing of speed was measured; run this command on a machine with one" in printed
        assert not [key for key in figures if key.endswith(("_ms", "_us"))]


def test_what_runs_on_a_gpu_runs_on_the_host(tmp_path) -> None:
    """All of the GPU's part but CUDA and TensorRT: every way gives the right answers, and is timed."""
    subject = make_subject("small", "fp32", tmp_path / "small", count=4)
    load, load_kernel = host_loaders(subject.bundle, largest=4)
    contenders = Contenders(subject, HostDevice(), SimpleNamespace(engine=load, kernel=load_kernel))
    assert contenders.reasons["kernel"] == "there is no compiler"
    assert "refit" in contenders.reasons
    for batch in (1, 4):
        figures = contenders.running(batch, seconds=0.1)
        ways = {"constant", "one", "many", "many_mixed"}
        expected = {f"{way}_ms" for way in ways} | {f"{way}_over_constant" for way in ways - {"constant"}}
        assert {*figures} == expected | {"users_mixed"}
    figures = contenders.swaps(repeats=3)
    assert {*figures} == {"warm_swap_us", "cold_swap_us"}
    contenders.close()


def test_swap(tmp_path) -> None:
    """It ends well, prints a table, writes finite figures and a picture."""
    printed, figures = benchmark(tmp_path, "swap.py", "--users", "300", "--effort", "0.05", "--networks", "small")
    assert "┃ figure" in printed
    numbers = {key: value for key, value in figures.items() if isinstance(value, float)}
    assert len(numbers) > 50
    assert all(math.isfinite(value) for value in numbers.values())
    assert figures["small.compared_samples"] == 400
    assert figures["small.largest_relative_difference"] <= 1e-6
    assert figures["small.hot_discrete_mb.300"] < figures["small.hot_mixture_mb.300"] / 10


def test_swaps_are_drawn(tmp_path) -> None:
    """A picture of both networks, from the figures that the full run writes."""
    names = {"warm_swap_us", "far_swap_us", "cold_swap_us", "adapter_load_us", "rebuild_us", "preoptimised_us"}
    figures = collections.defaultdict(
        lambda: 1.5, {f"{net}.{name}": 10.0 for net in ("small", "large") for name in names}
    )
    plot_swaps(figures, tmp_path / "out.svg")
    assert "</svg>" in (tmp_path / "out.svg").read_text()


def test_predict(tmp_path) -> None:
    """Every step and every operator has its time, of both networks, and the steps are no more than the whole."""
    printed, figures = benchmark(tmp_path, "predict.py", "--batch", "2")
    assert "┃ operator" in printed
    assert 0 < figures["check_us"] + figures["run_us"] < 2 * figures["predict_us"]
    assert figures["exported_us"] > 0
    assert figures["isoform.Conv_us"] > 0
    assert figures["exported.Conv_us"] > 0


def test_isolation(compiled, tmp_path) -> None:
    """Nothing wrong and nothing lost, with and without kills, is ``tests/server/store/test_isolation.py``; here, that it runs as a command."""
    words = ("--bundle", compiled, "--seconds", "2", "--clients", "4", "--users", "8")
    printed, figures = benchmark(tmp_path, "isolation.py", *words)
    assert "another's" in printed
    assert figures["wrong"] == figures["lost"] == figures["opened"] == figures["failed"] == 0
    assert figures["predictions_checked"] > 20
    assert figures["predict_p50_ms"] > 0


def test_bounds(compiled, tmp_path) -> None:
    """It sends what it is told to both servers; every kind is sent in ``tests/server/clients/test_bounded_server.py``."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "bounds.py"),
        "--bundle",
        str(compiled),
        "--seconds",
        "1",
        "--kinds",
        "JSON of numbers",
        "rollback",
        "adapt: one and spaces",
        "--quick",
        "--json",
        "out.json",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr  # 1 says that a busy machine answered late
    figures = json.loads((tmp_path / "out.json").read_text())
    assert "slowest_health_seconds" in result.stdout
    assert len(figures["statuses"]) == 3
    assert 20e6 < figures["peak_resident_bytes"] < figures["flask.peak_resident_bytes"]


@pytest.mark.trust
def test_half_requests(compiled, tmp_path) -> None:
    """Every kind of crowd, with and without a key, comes to both servers, and honest clients are answered beside each of them."""
    words = ("--bundle", str(compiled), "--seconds", "0.3", "--crowds", "12", "--quick", "--json", "out.json")
    command = [sys.executable, str(ROOT / "benchmarks" / "serving" / "half_requests.py"), *words]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr  # 1 says that a busy machine answered late
    figures = json.loads((tmp_path / "out.json").read_text())
    assert "slowest_health_seconds" in result.stdout
    ours = {(row["who"], row["kind"]): row for row in figures["rows"] if row["server"] == "isoform"}
    assert len(ours) == 17
    assert len(figures["rows"]) == 17 + 8
    assert all(row["predictions"] > 0 and row["health_asked"] > 0 for row in ours.values())
    assert (
        figures["unanswered_health"] == figures["failed_predictions"] == figures["deaths"] == figures["tracebacks"] == 0
    )
    announced = {who: ours[who, "2 MB announced"]["crowd"]["statuses"] for who in ("no key", "key")}
    assert announced == {"no key": {"401": 12}, "key": {}}  # who may not is told at once; who may has some time to send
    assert ours["key", "2 MB at 6 kB/s"]["crowd"]["sent_bytes"] > 0
    assert 20e6 < figures["peak_resident_bytes"] < 400e6


def test_store(tmp_path) -> None:
    """Few users: every place has its size and its times; a signature takes little more than its file."""
    printed, figures = benchmark(tmp_path, "store.py", "--users", "3000")
    assert "newest_warm_p50_us" in printed
    for place in ("store", "table", "folder"):
        assert figures[f"{place}.bytes_per_signature"] > 568
        for what in ("data_warm", "data_cold", "append"):
            assert 0 < figures[f"{place}.{what}_p50_us"] <= figures[f"{place}.{what}_p99_us"]
    assert figures["store.bytes_per_signature"] < 1024
    assert figures["store.page_p50_us"] > 0


SERVER = ("--rivals", "flask", "--users", "60", "--seconds", "0.04")
"""Ours beside Flask alone: no rival is installed for a test."""


def test_server(tmp_path) -> None:
    """Every server gives the same logits in every form; figures with aims, a row for each load, and memory."""
    printed, figures = benchmark(tmp_path, "server.py", *SERVER)
    assert "┃ server, setting, form" in printed
    assert figures["compared_answers"] == 2 * (
        4 * 2 + 2
    )  # of 1 and 16 samples: 4 servers in 2 forms, and a user in both
    assert figures["largest_relative_difference"] <= 1e-4
    assert figures["ours_rps_over_best_rival"] is None  # Flask alone is the floor, not a rival
    assert figures["ours_rps_over_flask_alone"] > 0
    assert 0 < figures["random_users_over_single_user"] < 10
    assert math.isfinite(figures["http_overhead_ms_p50"])
    assert figures["users_at_random"] == figures["users_in_store"] == 60
    assert {(row["form"], row["batch"], row["connections"]) for row in figures["rows"]} == {
        (form, batch, connections) for form in ("json", "binary") for batch, connections in ((1, 1), (1, 8), (16, 8))
    }
    assert len(figures["rows"]) == 3 * 2 * 3
    assert all(row["rps"] > 0 and row["p50_ms"] <= row["p99_ms"] for row in figures["rows"])
    assert all(0 < row["pss_mb"] <= row["rss_mb"] for row in figures["memory"])


def test_server_leaves_nothing_behind(tmp_path) -> None:
    """However it ends, the servers that it started end with it."""
    command = [sys.executable, str(ROOT / "benchmarks" / "server.py"), "--quick", *SERVER]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    assert process.stderr is not None
    try:
        assert any("servers answer" in line for line in process.stderr)
        assert _with_files_in(tmp_path)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.stderr.close()
        process.wait()
    limit = time.monotonic() + 20
    while _with_files_in(tmp_path) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not _with_files_in(tmp_path)


def _with_files_in(folder: Path) -> list[str]:
    """Command lines of processes that name a file in a folder, or work in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words, home = (entry / "cmdline").read_text(), os.readlink(entry / "cwd")
            except OSError:
                continue
            if home.startswith(str(folder)):
                found.append(words.replace("\0", " "))
    return found


def test_server_compares_logits(tmp_path) -> None:
    """A server whose network is another one is found out before anything is timed."""
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import server
right = server.complete_file
server.complete_file = lambda bundle, _: right(bundle, server.Signature.decode(server.users(bundle, 1, "mixture")[0]))
sys.argv = [*sys.argv[:1], *sys.argv[2:]]
server.main()
"""
    command = [sys.executable, "-c", script, str(ROOT / "benchmarks"), "--quick", *SERVER]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "error: flask" in result.stderr
    assert "from the runtime's" in result.stderr
