"""Benchmarks of learning, each with ``--quick``: it runs, prints a table, and writes its figures."""

import warnings
import wave

import numpy as np
import pytest
import torch
from bench.product import save_samples
from support import benchmark

from isoform.train.data.load import load_tasks
from isoform.train.recipe import read_recipe


def test_personalize(tmp_path) -> None:
    """A step beside torch's, and both processes' memory."""
    printed, figures = benchmark(tmp_path, "personalize.py", "--seconds", "2")
    assert "┃ figure" in printed
    assert 0 < figures["step_over_torch_eager"] < 10
    assert 0 < figures["peak_rss_mb"] < figures["torch_peak_rss_mb"]
    assert figures["fifty_steps_seconds"] > 0


@pytest.mark.timeout(300)
def test_personalize_people(shared, tmp_path) -> None:
    """Held-out people gain at every number of samples, none loses much, and the files are as small as they are said to be."""
    printed, figures = benchmark(tmp_path, "personalize.py", "people", "--plot", "out.svg", "--data", shared)
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
    printed, figures = benchmark(tmp_path, "personalize.py", "trials", "--data", shared)
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
    printed, figures = benchmark(tmp_path, "personalize.py", "alphabets", "--plot", "out.png", "--data", shared)
    assert "each one" in printed
    assert figures["held_out"] == 2
    assert 15 < figures["start_accuracy"]["1"] < figures["start_accuracy"]["5"]
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_personalize_domains(compiled, tmp_path) -> None:
    """Digits in domains that a bundle never saw."""
    printed, figures = benchmark(tmp_path, "personalize.py", "domains", "--bundle", compiled, "--data", tmp_path)
    assert "low_contrast" in printed
    assert set(figures["digits.accuracy"]["mixture + BN + head"]) == {"slanted", "low_contrast"}
    assert figures["digits.signature_bytes"]["delta + coefficients"] <= 1024


@pytest.mark.timeout(300)
def test_adapt(shared, tmp_path) -> None:
    """Unlabelled samples help in every setting, and a long stream does not spoil what was learned."""
    printed, figures = benchmark(tmp_path, "adapt.py", "--plot", "out.svg", "--data", shared)
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
    printed, figures = benchmark(tmp_path, "baselines.py")
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
    printed, figures = benchmark(tmp_path, "training/loading.py")
    assert "480 JPEGs of 224×224, 12 steps of 32" in printed
    for who in ("isoform", "torch"):
        assert set(figures[who]) == {"peak_mb", "busy_percent", "samples_per_s", "seconds"}
        assert 0 < figures[who]["busy_percent"] <= 100
        assert figures[who]["peak_mb"] > 100


def test_train(tmp_path) -> None:
    """Steps of each network are timed, and two processes have the loss of one, up to the rounding of sums."""
    printed, figures = benchmark(tmp_path, "train.py", "--batch", "8")
    assert "over untied" in printed
    assert 0 < figures["mixture_over_untied_step"] < 10
    assert figures["step_ms.16_layers_4_templates"] > figures["step_ms.mixture_4_templates"]
    assert figures["ddp2_loss_gap"] <= 1e-5
    assert figures["ddp2_speedup"] > 0


def test_sizes(shared, tmp_path) -> None:
    """A larger network has more bytes of templates and of its own, and a user's file stays below a kilobyte."""
    printed, figures = benchmark(tmp_path, "training/sizes.py", "--data", str(shared))
    assert "MotionSense, 30 steps, 2 people" in printed
    small, whole = figures["small"], figures["the default"]
    for found in (small, whole):
        assert found["file_bytes"] <= 1024
        assert found["network_bytes"] > 50 * found["file_bytes"]
        assert 0 < found["milliseconds"] < 100
        assert all(0 <= found[way] <= 100 for way in ("shared", "own_file", "own_layer"))
    assert whole["template_bytes"] > 2 * small["template_bytes"]
    assert whole["network_bytes"] > 2 * small["network_bytes"]


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
    printed, figures = benchmark(tmp_path, "spoken_words.py", *words)
    assert "┃ held out" in printed
    assert figures["people"] == ["ann", "bob"]
    assert figures["front_runs"] == 1
    assert figures["mean_personal"] == figures["bob.personal"]
    assert 0 <= figures["ann.common"] <= 100


def test_own_models(tmp_path) -> None:
    """A network that was brought is what torch computes, for two users of it too, and a user is changed in microseconds."""
    printed, figures = benchmark(tmp_path, "own_models.py", "--models", "transformer", "--steps", "10")
    assert "another user" in printed
    found = figures["transformer"]
    assert found["wrap_diff"] <= 1e-5
    assert found["torch_diff"] <= 1e-4
    assert max(user["diff"] for user in found["users"].values()) <= 1e-4
    assert 0.3 < found["over_constant_1"] < 10
    assert found["swap_us"] < 1000
