"""Every benchmark runs, prints a table, and writes its figures; how fast things are is not a test's business."""

import collections
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
import wave
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bench.gpu.contenders import Contenders
from bench.gpu.subjects import make_subject
from bench.product import save_samples
from bench.swapping.plot import plot_swaps
from host_device import HostDevice, host_loaders
from support import ROOT

from isoform.train.data.load import load_tasks
from isoform.train.recipe import read_recipe

BENCHMARKS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py"))


def quick(folder, name, *words) -> tuple[str, dict]:
    """What ``--quick --json`` prints and writes."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), *words, "--quick", "--json", "out.json"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads((folder / "out.json").read_text())


def test_every_benchmark_is_tested() -> None:
    """A benchmark that is added here needs a test below."""
    assert BENCHMARKS == [
        "adapt.py",
        "baselines.py",
        "bounds.py",
        "half_requests.py",
        "isolation.py",
        "own_models.py",
        "personalize.py",
        "predict.py",
        "server.py",
        "spoken_words.py",
        "store.py",
        "swap.py",
        "tensorrt_engines.py",
    ]


def test_tensorrt_engines(tmp_path) -> None:
    """Without a GPU, sizes of engines, and what was not measured."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    printed, figures = quick(tmp_path, "tensorrt_engines.py")
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
    printed, figures = quick(tmp_path, "swap.py", "--users", "300", "--effort", "0.05", "--networks", "small")
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
    printed, figures = quick(tmp_path, "predict.py", "--batch", "2")
    assert "┃ operator" in printed
    assert 0 < figures["check_us"] + figures["run_us"] < 2 * figures["predict_us"]
    assert figures["exported_us"] > 0
    assert figures["isoform.Conv_us"] > 0
    assert figures["exported.Conv_us"] > 0


def test_personalize(tmp_path) -> None:
    """A step beside torch's, and both processes' memory."""
    printed, figures = quick(tmp_path, "personalize.py", "--seconds", "2")
    assert "┃ figure" in printed
    assert 0 < figures["step_over_torch_eager"] < 10
    assert 0 < figures["peak_rss_mb"] < figures["torch_peak_rss_mb"]
    assert figures["fifty_steps_seconds"] > 0


@pytest.mark.timeout(300)
def test_personalize_people(shared, tmp_path) -> None:
    """Held-out people gain at every number of samples, none loses much, and the files are as small as they are said to be."""
    printed, figures = quick(tmp_path, "personalize.py", "people", "--plot", "out.svg", "--data", shared)
    assert "each one" in printed
    assert figures["held_out"] == 3
    assert sorted(map(int, figures["mean_gain_points"])) == [1, 5, 10, 20]
    assert all(gain > 0 for gain in figures["mean_gain_points"].values())
    assert figures["worst_person_points"] > -5
    assert set(figures["kilobyte_share_of_gain"]) == {"5"}
    assert max(figures["signature_bytes"][way] for way in ("mixture", "delta + coefficients")) <= 1024
    assert "</svg>" in (tmp_path / "out.svg").read_text()


@pytest.mark.timeout(300)
def test_personalize_trials(shared, tmp_path) -> None:
    """People on another occasion than that they learned from, as it is and with the phone turned, beside all of the network in torch."""
    printed, figures = quick(tmp_path, "personalize.py", "trials", "--data", shared)
    assert "another occasion, turned" in printed
    assert len(figures["results"]["another occasion"]) == 2 * 2
    starts = [[row[3] for row in rows] for rows in figures["results"].values()]
    assert starts[0] != starts[1]
    for name in ("another occasion", "another occasion, turned"):
        assert set(figures[f"{name}.worst_person_points"]) == {"delta + coefficients", "all of the network (torch)"}
        for way, worst in figures[f"{name}.worst_person_points"].items():
            gains = [row[4] - row[3] for row in figures["results"][name] if row[0] == way]
            assert figures[f"{name}.mean_gain_points"][way] == {"5": pytest.approx(sum(gains) / 2, abs=1e-3)}
            assert worst == pytest.approx(min(gains), abs=1e-3)
        assert max(row[5] for row in figures["results"][name] if row[0] == "delta + coefficients") <= 1024


@pytest.mark.timeout(300)
def test_personalize_alphabets(shared, tmp_path) -> None:
    """Held-out alphabets: new classes are told apart far better than by chance, and more drawings help."""
    printed, figures = quick(tmp_path, "personalize.py", "alphabets", "--plot", "out.png", "--data", shared)
    assert "each one" in printed
    assert figures["held_out"] == 2
    assert 15 < figures["start_accuracy"]["1"] < figures["start_accuracy"]["5"]
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_personalize_domains(compiled, tmp_path) -> None:
    """Digits in domains that a bundle never saw."""
    printed, figures = quick(tmp_path, "personalize.py", "domains", "--bundle", compiled, "--data", tmp_path)
    assert "low_contrast" in printed
    assert set(figures["digits.accuracy"]["mixture + BN + head"]) == {"slanted", "low_contrast"}
    assert figures["digits.signature_bytes"]["delta + coefficients"] <= 1024


@pytest.mark.timeout(300)
def test_adapt(shared, tmp_path) -> None:
    """Unlabelled samples help in every setting, and a long stream does not spoil what was learned."""
    printed, figures = quick(tmp_path, "adapt.py", "--plot", "out.svg", "--data", shared)
    assert "by domain" in printed
    assert figures["mnist.recovered_error_share"] > 0.4
    assert figures["mnist.auto_minus_tent_points"] > -3
    assert figures["mnist.worst_setting_points"] > -3
    assert figures["mnist.long_stream_drop_points"] < 3
    assert 0 < figures["mnist.cost_over_forward"]["auto"] < 40
    assert figures["mnist.peak_rss_mb, auto"] < figures["mnist.peak_rss_mb, torch tent"]
    assert "</svg>" in (tmp_path / "out.svg").read_text()


def test_saved_samples_keep_their_split(tmp_path) -> None:
    """What a benchmark saves for a recipe is read with the same samples to train on and to test on, and classes by name."""
    rng = np.random.default_rng(0)
    halves = [(rng.random((count, 1, 8, 8), dtype=np.float32), np.arange(count) % 2) for count in (70, 30)]
    split = save_samples(tmp_path / "some.npz", halves, ("b", "a"))
    (tmp_path / "r.toml").write_text(
        f'steps = 1\n[data]\ninput_shape = [1, 8, 8]\n{split}[tasks.x]\ndata = "files"\npath = "some.npz"\n'
    )
    recipe = read_recipe(str(tmp_path / "r.toml"), {})
    found = load_tasks(recipe.tasks, recipe.data, root=tmp_path)["x"]
    assert found.classes == ("a", "b")
    for half, (x, labels) in zip((found.train, found.test), halves, strict=True):
        assert np.array_equal(half.images, x)
        assert np.array_equal(half.labels, 1 - labels)


@pytest.mark.timeout(300)
def test_baselines(tmp_path) -> None:
    """Every row has its domains, each network is from a recipe that is printed, and a signature is far smaller than a network."""
    printed, figures = quick(tmp_path, "baselines.py")
    rows = figures["digits.by_seed"]
    assert len(rows) == 1
    assert len(rows[0]) == 3 + 5
    assert sum(len(row) for row in rows[0].values()) == 3 * 4 + 5 * 3
    assert all(0 <= value <= 100 for row in rows[0].values() for value in row.values())
    assert printed.count("# isoform train ") == 6
    assert 'path = "pooled.npz"' in printed
    sizes = figures["digits.bytes"]
    assert sizes["personal signature"] <= 1024 < sizes["a network per domain"] / 10


def test_loading(tmp_path) -> None:
    """Both ways have their memory, share and speed; the decoded photographs, were they all in memory, are the other figure."""
    printed, figures = quick(tmp_path, "training/loading.py")
    assert "480 JPEGs of 224×224, 12 steps of 32" in printed
    for who in ("isoform", "torch"):
        assert set(figures[who]) == {"peak_mb", "busy_percent", "samples_per_s", "seconds"}
        assert 0 < figures[who]["busy_percent"] <= 100
        assert figures[who]["peak_mb"] > 100
    assert figures["memory_over_decoded"] > 0


def test_spoken_words(tmp_path) -> None:
    """Tones of three people whose voices differ in pitch, behind a small network of random weights: everything has its figure."""
    rng, folder = np.random.default_rng(0), tmp_path / "recordings"
    folder.mkdir()
    for pitch, person in enumerate(("ann", "bob", "cy")):
        for word, (first, second) in enumerate(((300, 900), (900, 300), (500, 1500))):
            for number in range(9):
                time_ = np.arange(2400) / 8000
                tone = np.where(
                    time_ < 0.15, np.sin(6.28 * first * time_), np.sin(6.28 * second * time_ * (1 + pitch / 10))
                )
                sound = (8000 * (tone + 0.1 * rng.normal(size=2400))).astype("<i2")
                with wave.open(str(folder / f"{word}_{person}_{number}.wav"), "wb") as file:
                    file.setparams((1, 2, 8000, 0, "NONE", ""))
                    file.writeframes(sound.tobytes())
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=(8, 1)), torch.nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.rand(2, 3, 48, 96),), tmp_path / "front.onnx", input_names=["x"], output_names=["y"], dynamo=False,
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )  # fmt: skip
    words = (
        "--recordings",
        str(folder),
        "--front",
        str(tmp_path / "front.onnx"),
        "--tensor",
        "y",
        "--shots",
        "3",
        "--seeds",
        "1",
    )
    printed, figures = quick(tmp_path, "spoken_words.py", *words)
    assert "┃ held out" in printed
    assert figures["people"] == ["ann", "bob"]
    assert figures["front_runs"] == 1
    assert figures["mean_personal"] == figures["bob.personal"]
    assert 0 <= figures["ann.common"] <= 100


def test_own_models(tmp_path) -> None:
    """A network that was brought is what torch computes, for two users of it too, and a user is changed in microseconds."""
    printed, figures = quick(tmp_path, "own_models.py", "--models", "transformer", "--steps", "10")
    assert "another user" in printed
    found = figures["transformer"]
    assert found["wrap_diff"] <= 1e-5
    assert found["torch_diff"] <= 1e-4
    assert max(user["diff"] for user in found["users"].values()) <= 1e-4
    assert 0.3 < found["over_constant_1"] < 10
    assert found["swap_us"] < 1000


def test_isolation(compiled, tmp_path) -> None:
    """Nothing wrong and nothing lost, with and without kills, is ``tests/server/store/test_isolation.py``; here, that it runs as a command."""
    words = ("--bundle", compiled, "--seconds", "2", "--clients", "4", "--users", "8")
    printed, figures = quick(tmp_path, "isolation.py", *words)
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
    command = [sys.executable, str(ROOT / "benchmarks" / "half_requests.py"), *words]
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
    printed, figures = quick(tmp_path, "store.py", "--users", "3000")
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
    printed, figures = quick(tmp_path, "server.py", *SERVER)
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
