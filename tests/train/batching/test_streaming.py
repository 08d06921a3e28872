"""Images that stay on disk: training on them is training on the same images in memory; ``benchmarks/training/loading.py`` has theirs."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import isoform

from isoform.runtime.errors import CheckpointError, DataError
from isoform.runtime.formats import tensors
from isoform.runtime.formats.bundle import Bundle
from isoform.train.batching import stream
from isoform.train.batching.stream import Stream, worker_count
from isoform.train.data import load
from isoform.train.data.load import load_tasks
from isoform.train.data.pictures import Pictures, chunks
from isoform.train.loop import train
from isoform.train.recipe import read_recipe

RECIPE = """steps = 12
batch = 6
threads = 1
[data]
input_shape = [3, 16, 16]
[network]
adapter_kernel = [4, 4]
layers = 2
templates = 2
channels = 8
head_channels = 8
embedding = 8
[tasks.plain]
data = "files"
[tasks.blurred]
data = "files"
domain = "blurred"
limit = 20
"""


@pytest.fixture
def photos(tmp_path):
    """Two classes of twenty pictures of other sizes, and a recipe."""
    rng = np.random.default_rng(0)
    for place, name in enumerate(("dark", "light")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(0, 100, (20 + index, 24, 3)) + 150 * place
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{index:02}.png")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def read(photos):
    """The recipe and its data."""
    recipe = read_recipe(str(photos / "recipe.toml"), {})
    return recipe, load_tasks(recipe.tasks, recipe.data, root=photos / "data")


@pytest.mark.parametrize("workers", [0, 2])
def test_images_on_disk_train_the_same_network(photos, workers, monkeypatch) -> None:
    """The same weights, normalisation, BN statistics and accuracies as with images in memory; also after a resumption."""
    recipe, datasets = read(photos)
    assert isinstance(datasets["plain"].train.images, np.ndarray)
    expected = train(recipe, datasets, checkpoint=photos / "state")
    monkeypatch.setattr(load, "IN_MEMORY", 0)
    streamed = read(photos)[1]
    assert isinstance(streamed["blurred"].train.images, Pictures)
    assert len(streamed["blurred"].train.labels) == 20
    count, steps = 0, []

    def stop() -> bool:
        nonlocal count
        count += 1
        return count == 5

    with pytest.raises(KeyboardInterrupt):
        train(recipe, streamed, checkpoint=photos / "other", workers=workers, stop=stop)
    found = train(
        recipe, streamed, checkpoint=photos / "other", workers=workers, progress=lambda report: steps.append(report)
    )
    assert [report.step for report in steps] == list(range(6, 13))
    assert found.training["test_accuracy"] == expected.training["test_accuracy"]
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(tensor, found.tensors[name], err_msg=name)
    for task, signature in expected.signatures.items():
        for part, array in signature.parts.items():
            np.testing.assert_array_equal(array, found.signatures[task].parts[part], err_msg=f"{task} {part}")


def test_pictures_index_as_arrays_do(photos) -> None:
    """Slices, rows and masks give the images of an array of all, domain included; chunks cover all, in their bytes."""
    pictures = read_pictures(photos)
    whole = pictures.read(account=load.Account())
    assert (pictures.shape, whole.shape, whole.dtype) == ((40, 3, 16, 16), (40, 3, 16, 16), pictures.dtype)
    rows = np.array([3, 39, 0])
    np.testing.assert_array_equal(pictures[rows], whole[rows])
    np.testing.assert_array_equal(pictures[5:9], whole[5:9])
    assert pictures[9:9].shape == (0, 3, 16, 16)
    mask = np.arange(40) % 7 == 0
    np.testing.assert_array_equal(pictures.of(mask).seen_in("inverted")[:], 1 - whole[mask])
    assert [rows.stop - rows.start for rows in chunks(whole, most=15)] == [15, 15, 15]
    summary = pictures.summary
    np.testing.assert_allclose(summary.mean, whole.mean(axis=(0, 2, 3), dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(summary.square, np.square(whole, dtype=np.float64).mean(axis=(0, 2, 3)), rtol=1e-9)


def read_pictures(photos) -> Pictures:
    """All images, listed."""
    from isoform.runtime.inputs import Reading
    from isoform.train.data.formats.files import read_files

    found = read_files(photos / "data", shape=(3, 16, 16), account=load.Account(), reading=Reading())
    assert isinstance(found.train.images, Pictures)
    return found.train.images


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_goes_away_is_one_line(photos, workers) -> None:
    """An image that cannot be read any more ends the run with its name, also from another process; so does one that never could."""
    pictures = read_pictures(photos)
    stream = Stream(pictures, lambda step: np.array([step, step + 20]), steps=4, workers=workers)
    assert stream[0].shape == (2, 3, 16, 16)
    assert stream.waited > 0
    (photos / "data" / "light" / "19.png").unlink()
    broken = Stream(pictures, lambda step: np.array([39]), steps=4, workers=workers)
    with pytest.raises(DataError, match=r"^[^\n]*19.png[^\n]*$"):
        broken[0]
    assert 1 <= worker_count() <= 8


def test_steps_may_be_asked_in_any_order(photos) -> None:
    """A step that is not the next one is decoded anew."""
    pictures = read_pictures(photos)
    stream = Stream(pictures, lambda step: np.array([step]), steps=6, workers=0)
    for step in (0, 1, 4, 2, 3, 4, 5):
        np.testing.assert_array_equal(stream[step].numpy(), pictures[step : step + 1])


@pytest.mark.parametrize("room", [0, 1 << 40])
def test_batches_come_by_shared_memory_or_by_a_pipe(photos, monkeypatch, room) -> None:
    """Where there is little shared memory, as in containers, through a pipe; the images are the same."""
    monkeypatch.setattr(stream.os, "statvfs", lambda _: SimpleNamespace(f_bavail=room, f_frsize=1))
    pictures = read_pictures(photos)
    batches = Stream(pictures, lambda step: np.array([step, step + 1]), steps=4, workers=1)
    for step in range(4):
        found = batches[step]
        np.testing.assert_array_equal(found.numpy(), pictures[step : step + 2])
        assert found.is_shared() == bool(room)
    batches.close()


def test_a_worker_that_is_killed_is_no_end(photos, monkeypatch) -> None:
    """The images of its step are decoded here, the next ones by another worker; no error comes in the midst of anything else."""
    pictures = read_pictures(photos)
    batches = Stream(pictures, lambda step: np.array([step]), steps=8, workers=1)
    for step in range(3):
        np.testing.assert_array_equal(batches[step].numpy(), pictures[step : step + 1])
    for process in multiprocessing.active_children():
        process.kill()
    until = time.monotonic() + 7  # torch looks every five seconds
    while time.monotonic() < until:
        sum(range(1000))
    for step in range(3, 8):
        np.testing.assert_array_equal(batches[step].numpy(), pictures[step : step + 1])
    batches.close()


def test_closing_does_not_wait_for_a_slow_image(photos, monkeypatch) -> None:
    """A decoder that takes a minute keeps neither the run nor the program."""
    code = """
import time, numpy as np
from isoform.train.batching.stream import Stream
class Slow:
    shape = (9, 3, 4, 4)
    def one_by_one(self, rows): time.sleep(0 if rows[0] == 0 else 60); return np.zeros((1, 3, 4, 4), np.float32)
batches = Stream(Slow(), lambda step: np.array([step]), steps=9, workers=1)
batches[0]
time.sleep(0.5)
batches.close()
"""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)
    assert time.monotonic() - began < 45


def test_a_compiled_bundle_of_images_on_disk(photos, monkeypatch, capsys) -> None:
    """Compiling verifies on as many test samples as are kept in memory, and says how many."""
    from isoform.compile import build

    monkeypatch.setattr(load, "IN_MEMORY", 0)
    monkeypatch.setattr(build, "IN_MEMORY", 4 * 3 * 16 * 16 * 4)
    recipe, datasets = read(photos)
    recipe = dataclasses.replace(recipe, steps=2)
    bundle = train(recipe, datasets, checkpoint=photos / "state", workers=0)
    (photos / "b").mkdir()
    bundle.write(photos / "b")
    said: list[str] = []
    report = build.compile_bundle(photos / "b", data=photos / "data", progress=said.append, max_drop_points=100)
    assert "verifying plain on 4 of 10 test samples, as many as are kept in memory" in said
    assert report["tasks"]["plain"]["verified"]["samples"] == 4


@pytest.mark.parametrize(
    ("number", "everybody"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGINT, False)]
)
def test_a_signal_loses_no_step(photos, number, everybody) -> None:
    """The step is finished and kept, which is said once, also where workers got the signal too; the same command goes on from there."""
    words = [
        "train",
        "recipe.toml",
        "-o",
        "b",
        "--data",
        "data",
        "--log",
        "log",
        "--workers",
        "2",
        "--steps",
        "100000",
        "--checkpoint-seconds",
        "1000",
    ]
    code = "import sys; from isoform.train.data import load; from isoform.runtime.cli import main; load.IN_MEMORY = 0; sys.exit(main(sys.argv[1:]))"
    kept = []
    for _ in range(2):
        running = subprocess.Popen(
            [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True, cwd=photos, start_new_session=True
        )
        until = time.monotonic() + 120
        while not (photos / "log").exists() and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(3)
        os.killpg(running.pid, number) if everybody else running.send_signal(number)
        said = running.communicate(timeout=100)[1]
        assert running.returncode == 130, said
        assert said.count("stopping after this step") == 1
        assert "Traceback" not in said
        assert "b.checkpoint; the same command goes on" in said
        (photos / "log").unlink()
        metadata = tensors.decode((photos / "b.checkpoint").read_bytes(), error=CheckpointError, what="checkpoint")[1]
        kept.append(int(metadata["step"]))
    assert 0 < kept[0] < kept[1]


def test_the_log_of_a_run(photos) -> None:
    """A line for each reported step, the last one included."""
    isoform("train", photos / "recipe.toml", "-o", photos / "b", "--data", photos / "data", "--log", photos / "log")
    assert Bundle.load(photos / "b").training["recipe"]["steps"] == 12
    lines = [json.loads(line) for line in (photos / "log").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert {"of", "seconds", "waiting", "loss", "accuracy"} <= set(lines[-1])
