"""``kill -9`` at random moments: the bundle is always the old one or the new one, and training goes on.

What is killed has imported everything before it begins (``prepared``), so that every moment is one of its work.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prepared import begun
from support import ISOFORM, ROOT, isoform

from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.train.data.formats.digits import digits

TRAIN = ["--steps", "30", "--network.layers", "1", "--batch", "4", "--threads", "1", "--checkpoint-seconds", "0"]


@pytest.fixture
def recipe(tmp_path) -> Path:
    """The recipe digits with its first task alone: what is killed here ends in files in the same way, only sooner."""
    text = (ROOT / "train" / "recipes" / "digits.toml").read_text()
    path = tmp_path / "one.toml"
    path.write_text(text[: text.index("[tasks.inverted]")] + "limit = 100\n")
    return path


def killed_after(words: list[str], seconds: float) -> bool:
    """Start a command, kill it after a while; False if it was done before."""
    process = begun(words)
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return True
    assert process.exitcode == 0
    return False


def timed(words: list[str]) -> float:
    """Run a command to its end, as those that are killed; how long it took."""
    begun([*words[:1], "--help"]).join()  # everything is imported afterwards
    started = time.monotonic()
    process = begun(words)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - started


def kill_ten_times(words: list[str], seconds: float, rng: random.Random, check: Callable[[str], None]) -> None:
    """Kill a command that takes so long at ten random moments; check after every turn."""
    killed = turns = 0
    while killed < 10:
        turns += 1
        assert turns < 40, "the command is done before it can be killed"
        if killed_after(words, rng.uniform(0.0, 1.0) * seconds):
            killed += 1
        else:
            seconds *= 0.8
        check(f"turn {turns}")


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a directory, but measured times."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "report.json"
    }


@pytest.mark.timeout(400)
def test_training_killed_ten_times(recipe, tmp_path) -> None:
    """Killed at ten random moments, the bundle is the old or the new one; the run goes on and ends in the same bytes."""
    rng = random.Random(1)
    fresh = ["train", str(recipe), "-o", str(tmp_path / "fresh"), *TRAIN, "--seed", "1"]
    seconds = timed(fresh)
    expected = contents(tmp_path / "fresh")
    bundle = tmp_path / "bundle"
    isoform("train", recipe, "-o", bundle, *TRAIN, "--seed", "2")
    old = contents(bundle)
    assert old != expected
    words = ["train", str(recipe), "-o", str(bundle), *TRAIN, "--seed", "1"]

    def check(turn: str) -> None:
        assert contents(bundle) in (old, expected), f"{turn}: neither the old nor the new bundle"
        Bundle.load(bundle)

    kill_ten_times(words, seconds, rng, check)
    isoform(*words)
    assert contents(bundle) == expected
    assert not (tmp_path / "bundle.checkpoint").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.timeout(400)
def test_compiling_killed_ten_times(recipe, tmp_path) -> None:
    """Killed at ten random moments, compiled/ is the old or the new one, and compiling again gives the new one."""
    rng = random.Random(2)
    bundle = tmp_path / "bundle"
    isoform("train", recipe, "-o", bundle, *TRAIN, "--mixture.entropy", "20")
    words = ["compile", str(bundle), "--max-drop", "100"]
    seconds = timed(words)
    new = contents(bundle / "compiled")
    isoform(*words, "--tau", "0.6")
    old = contents(bundle / "compiled")
    assert old != new

    def check(turn: str) -> None:
        assert contents(bundle / "compiled") in (old, new), f"{turn}: neither the old nor the new result"
        assert Bundle.load(bundle).compiled is not None

    kill_ten_times(words, seconds, rng, check)
    isoform(*words)
    assert contents(bundle / "compiled") == new
    assert {path.name for path in bundle.iterdir()} == {
        "bundle.json",
        "templates.safetensors",
        "signatures",
        "compiled",
    }


def test_ctrl_c_is_one_line(tmp_path) -> None:
    """Ctrl-C during training says one line, exits with 130, and leaves a checkpoint to go on from."""
    words = ["train", "digits", "-o", str(tmp_path / "bundle"), *TRAIN, "--steps", "3000"]
    # A shell without job control starts what runs in the background with SIGINT ignored, and so may a CI; a terminal does not.
    process = subprocess.Popen(
        [*ISOFORM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        state = tmp_path / "bundle.checkpoint"
        deadline = time.monotonic() + 60
        while not state.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "isoform train: stopped by Ctrl-C"
    assert json.loads(isoform("inspect", state, "--json").stdout)["what"] == "tensors"
    assert not (tmp_path / "bundle").exists()


ADAPTING = """
import sys
import numpy as np
from isoform.runtime import Runtime

x = np.load(sys.argv[3])
with Runtime.open(sys.argv[1]) as runtime:
    adapter = runtime.adapter(runtime.signature("plain"), directory=sys.argv[2], keep=20)
    print(adapter.signature.digest, flush=True)
    for turn in range(1000):
        adapter(x[16 * (turn % 32) :][:16])
        print(adapter.signature.digest, flush=True)
"""


def test_adapting_loses_at_most_the_last_update(compiled, tmp_path) -> None:
    """A stream that is killed goes on from its last update, or from the one that it was writing; every file is whole."""
    rng, folder, x = random.Random(0), tmp_path / "stream", tmp_path / "x.npy"
    np.save(x, 1 - digits()[0][:512])
    expected = None
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", ADAPTING, compiled, folder, x], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            said = [process.stdout.readline().strip()]
            stop = time.monotonic() + rng.uniform(0.05, 0.8)
            while time.monotonic() < stop:
                said.append(process.stdout.readline().strip())
            process.send_signal(signal.SIGKILL)
            said += [line for line in process.stdout.read().split("\n") if len(line) == 64]
        assert expected is None or said[0] == expected
        head = folder / "head"
        expected = head.read_text().strip() if head.exists() else said[0]
        kept = Signature.load(folder / f"{expected}.safetensors") if head.exists() else None
        assert expected == said[-1] or (kept is not None and kept.parent == said[-1])
        for path in folder.glob("*.safetensors"):
            Signature.load(path)
