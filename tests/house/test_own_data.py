"""docs/examples/own_data.py: from a folder of one's own files to a file that plain ONNX Runtime runs, for every sort of data."""

import csv
import json
import subprocess
import sys
import tarfile
import wave
from io import TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT

SCRIPT = ROOT / "docs" / "examples" / "own_data.py"
MOTION = ROOT.parent / "shared" / "data" / "motion-sense" / "A_DeviceMotion_data_trials11-16.tar.xz"
PEOPLE = ("ann", "bob", "cem", "dee")


def road(tmp_path: Path, *words: str, data: str = "everybody", me: str = "", steps: int = 40):
    """Run the example; returns its summary, and what it printed."""
    parts = [f"--{part}={tmp_path / 'me' / part}{me}" for part in ("learn", "test")]
    command = [
        sys.executable,
        str(SCRIPT),
        f"--data={tmp_path / data}",
        *parts,
        f"--steps={steps}",
        "-o",
        str(tmp_path / "out"),
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout), done.stderr


def check(found, *, classes: int) -> None:
    """The exported file gives the runtime's answers; the networks are better than a guess; the signature is small."""
    assert found["largest_difference"] <= 1e-5
    assert min(found["accuracy_held_out"], found["own"]) > 1.5 / classes
    assert found["signature_bytes"] <= 1024 < found["onnx_bytes"]


def photograph(path: Path, label: int, rng: np.random.Generator, *, light: float = 1.0) -> None:
    """A picture in colour: stripes whose direction is the class, on a background of any colour."""
    down, across = np.mgrid[:48, :64]
    stripes = np.sin(0.6 * (down if label else across) + rng.uniform(0, 6))
    pixels = light * (120 + 60 * stripes[..., None] * rng.uniform(0.5, 1, 3) + rng.normal(0, 10, (48, 64, 3)))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)


def test_photographs(tmp_path) -> None:
    """A folder of JPEGs in colour."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("fence", "stairs")):
        for number in range(24):
            photograph(tmp_path / "everybody" / name / f"{number}.jpg", label, rng)
        for number in range(6):
            photograph(tmp_path / "me" / "learn" / name / f"{number}.jpg", label, rng, light=0.4)
            photograph(tmp_path / "me" / "test" / name / f"{number}.jpg", label, rng, light=0.4)
    found, said = road(tmp_path)
    check(found, classes=2)
    assert "input_shape = [3, 56, 56]" in (tmp_path / "out" / "recipe.toml").read_text()
    assert "$ isoform export" in said


def tone(path: Path, label: int, rng: np.random.Generator, *, pitch: float) -> None:
    """Half a second of a rising or a falling tone, 16-bit PCM at 8 kHz."""
    times = np.arange(4000) / 8000
    slide = (1 if label else -1) * 400 * times
    samples = 0.4 * np.sin(2 * np.pi * (pitch + slide) * times) + rng.normal(0, 0.02, len(times))
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def test_sounds(tmp_path) -> None:
    """WAV files by word and speaker: whole speakers are held out for testing."""
    rng = np.random.default_rng(1)
    for label, name in enumerate(("down", "up")):
        for place, person in enumerate(PEOPLE):
            for number in range(8):
                tone(tmp_path / "everybody" / name / person / f"{number}.wav", label, rng, pitch=500 + 80 * place)
        for part in ("learn", "test"):
            for number in range(5):
                tone(tmp_path / "me" / part / name / f"{number}.wav", label, rng, pitch=900)
    found, said = road(tmp_path)
    check(found, classes=2)
    assert "64 windows of 64 sounds in 2 classes of 4 groups" in said
    assert "[data.sound]" in (tmp_path / "out" / "recipe.toml").read_text()


def test_feature_vectors(tmp_path) -> None:
    """An .npz with x of shape (n, features), labels, and groups."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(3, 12))
    for place, count, shift in (("everybody", 240, 0.0), ("me/learn", 30, 1.0), ("me/test", 60, 1.0)):
        labels = np.arange(count) % 3
        (tmp_path / place).parent.mkdir(exist_ok=True)
        np.savez(
            tmp_path / f"{place}.npz",
            x=centres[labels] + shift + rng.normal(0, 0.5, (count, 12)),
            labels=labels.astype(str),
        )
    found, _ = road(tmp_path, data="everybody.npz", me=".npz")
    check(found, classes=3)


@pytest.mark.skipif(not MOTION.exists(), reason="MotionSense is not here (../shared/data)")
def test_recordings_of_people(tmp_path) -> None:
    """MotionSense as its CSV files are, two columns of them, with who it was: people are held out, one of them entirely."""
    columns = ["userAcceleration.x", "userAcceleration.y", "rotationRate.z"]
    with tarfile.open(MOTION) as archive:
        for member in archive:
            folder, person = Path(member.name).parent.name, Path(member.name).stem.removeprefix("sub_")
            if folder not in ("wlk_15", "sit_13") or not person.isdigit() or int(person) > 8:
                continue
            content = archive.extractfile(member)
            assert content is not None
            rows = list(csv.DictReader(TextIOWrapper(content)))[:900]
            halves = {"everybody": rows} if int(person) < 8 else {"me/learn": rows[:450], "me/test": rows[450:]}
            for place, part in halves.items():
                path = tmp_path / place / folder[:3] / f"{person}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("w", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerow(["Time (s)", *columns, "group"])
                    writer.writerows(
                        [f"{number / 50:.2f}", *(row[name] for name in columns), f"p{person}"]
                        for number, row in enumerate(part)
                    )
    found, said = road(tmp_path, "--window=1 s", "--stride=0.5 s")
    check(found, classes=2)
    assert "of 7 groups" in said
    recipe = (tmp_path / "out" / "recipe.toml").read_text()
    assert "input_shape = [3, 1, " in recipe
    assert 'columns = ["userAcceleration.x", "userAcceleration.y", "rotationRate.z"]' in recipe
