"""Every benchmark runs, prints a table, and writes its figures; how fast things are is not a test's business."""

import json
import math
import subprocess
import sys

import pytest
from support import ROOT

BENCHMARKS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py"))


def quick(folder, name, *words) -> tuple[str, dict]:
    """What ``--quick --json`` prints and writes."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), *words, "--quick", "--json", "out.json"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads((folder / "out.json").read_text())


def test_every_benchmark_is_tested() -> None:
    """A benchmark that is added here needs a test below."""
    assert BENCHMARKS == ["adapt.py", "isolation.py", "personalize.py", "store.py", "swap.py"]


def test_swap(tmp_path) -> None:
    """It ends well, prints a table, writes finite figures and a picture."""
    printed, figures = quick(tmp_path, "swap.py", "--plot", "out.svg", "--users", "300")
    assert "┃ figure" in printed
    numbers = {key: value for key, value in figures.items() if isinstance(value, float)}
    assert len(numbers) > 60
    assert all(math.isfinite(value) for value in numbers.values())
    for network in ("small", "large"):
        assert figures[f"{network}.compared_samples"] == 1000
        assert figures[f"{network}.largest_relative_difference"] <= 1e-6
    assert figures["small.hot_discrete_mb.300"] < figures["small.hot_mixture_mb.300"] / 10
    assert "</svg>" in (tmp_path / "out.svg").read_text()


def test_personalize(tmp_path) -> None:
    """A step beside torch's, and both processes' memory."""
    printed, figures = quick(tmp_path, "personalize.py")
    assert "┃ figure" in printed
    assert 0 < figures["step_over_torch_eager"] < 10
    assert 0 < figures["peak_rss_mb"] < figures["torch_peak_rss_mb"]
    assert figures["fifty_steps_seconds"] > 0


@pytest.mark.timeout(300)
def test_personalize_people(shared, tmp_path) -> None:
    """Held-out people gain at every number of samples, none loses much, and the files are as small as they are said to be."""
    printed, figures = quick(tmp_path, "personalize.py", "people", "--plot", "out.svg", "--data", shared)
    assert "each one" in printed
    assert figures["held_out"] == 8
    assert sorted(map(int, figures["mean_gain_points"])) == [1, 5, 10, 20]
    assert all(gain > 0 for gain in figures["mean_gain_points"].values())
    assert figures["worst_person_points"] > -5
    assert figures["signature_bytes"]["mixture"] <= 1024
    assert "</svg>" in (tmp_path / "out.svg").read_text()


@pytest.mark.timeout(300)
def test_personalize_alphabets(shared, tmp_path) -> None:
    """Held-out alphabets: new classes are told apart far better than by chance, and more drawings help."""
    printed, figures = quick(tmp_path, "personalize.py", "alphabets", "--plot", "out.png", "--data", shared)
    assert "each one" in printed
    assert figures["held_out"] == 4
    assert 15 < figures["start_accuracy"]["1"] < figures["start_accuracy"]["5"]
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_personalize_domains(compiled, tmp_path) -> None:
    """Digits in domains that a bundle never saw."""
    printed, figures = quick(tmp_path, "personalize.py", "domains", "--bundle", compiled)
    assert "low_contrast" in printed
    assert set(figures["accuracy"]["mixture + BN + head"]) == {"slanted", "thick", "low_contrast", "rotated 30°"}


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


def test_isolation(compiled, tmp_path) -> None:
    """Nothing wrong and nothing lost, with and without kills, is ``tests/server/test_isolation.py``; here, that it runs as a command."""
    words = ("--bundle", compiled, "--seconds", "2", "--clients", "4", "--users", "8")
    printed, figures = quick(tmp_path, "isolation.py", *words)
    assert "another's" in printed
    assert figures["wrong"] == figures["lost"] == figures["opened"] == figures["failed"] == 0
    assert figures["predictions_checked"] > 20
    assert figures["predict_p50_ms"] > 0


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
