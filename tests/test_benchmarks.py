"""Every benchmark runs, prints a table, and writes its figures; how fast things are is not a test's business."""

import json
import math
import subprocess
import sys

import pytest
from support import ROOT

BENCHMARKS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_quick(name, tmp_path) -> None:
    """``--quick --json`` ends well, prints a table, and writes finite figures."""
    assert BENCHMARKS == ["swap.py"]
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--quick", "--json", "out.json", "--plot", "out.svg"]
    result = subprocess.run([*command, "--users", "300"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "┃ figure" in result.stdout
    figures = json.loads((tmp_path / "out.json").read_text())
    numbers = {key: value for key, value in figures.items() if isinstance(value, float)}
    assert len(numbers) > 60
    assert all(math.isfinite(value) for value in numbers.values())
    for network in ("small", "large"):
        assert figures[f"{network}.compared_samples"] == 1000
        assert figures[f"{network}.largest_relative_difference"] <= 1e-6
    assert figures["small.hot_discrete_mb.300"] < figures["small.hot_mixture_mb.300"] / 10
    assert "</svg>" in (tmp_path / "out.svg").read_text()
