"""The training run: what it learns, that it repeats, and that it goes on after being stopped."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoform.runtime.arrays import softmax
from isoform.runtime.errors import CheckpointError, DataError, RecipeError
from isoform.runtime.formats import tensors
from isoform.runtime.kinds.mixture.discrete import sequence_of, xi_of
from isoform.train.batching.batches import Batches
from isoform.train.checkpoint import _digest, checkpoint_path
from isoform.train.data.load import load_task
from isoform.train.data.samples import Split
from isoform.train.loop import train
from isoform.train.recipe import Recipe, read_recipe

FLAGS = {
    "steps": "12",
    "network.layers": "2",
    "batch": "8",
    "threads": "1",
    "optimizer.warmup_steps": "3",
    "network.bn_directions": "0",
}


def run(tmp_path, recipe: Recipe, *, name="state", **options):
    """Train on the recipe's tasks."""
    datasets = {task: load_task(entry, recipe.data, root=None) for task, entry in recipe.tasks.items()}
    return train(recipe, datasets, checkpoint=tmp_path / name, **options)


def recipe(**flags: str) -> Recipe:
    """A small recipe of two of the four domains."""
    whole = read_recipe("digits", {**FLAGS, **{name.replace("__", "."): value for name, value in flags.items()}})
    return dataclasses.replace(whole, tasks={name: whole.tasks[name] for name in ("plain", "edges")})


def same(one, other) -> bool:
    """Bit for bit the same templates and signatures."""
    return one.digest == other.digest and dict(one.signatures) == dict(other.signatures)


def test_training_repeats(tmp_path) -> None:
    """The same recipe gives the same bytes; another seed gives others."""
    one, two = run(tmp_path, recipe(), name="one"), run(tmp_path, recipe(), name="two")
    assert same(one, two)
    assert one.training == two.training
    assert not same(one, run(tmp_path, recipe(seed="1"), name="three"))


@pytest.mark.parametrize("stop", [1, 7, 11])
def test_a_stopped_run_ends_in_the_same_weights(stop, tmp_path) -> None:
    """A run that dies after any step and is started again ends as if nothing had happened, history included."""

    class DiedError(Exception):
        pass

    def die(report) -> None:
        if report.step == stop + 1:
            raise DiedError

    whole = run(tmp_path, recipe(), name="whole")
    with pytest.raises(DiedError):
        run(tmp_path, recipe(), name="state", checkpoint_seconds=0, progress=die)
    steps = []
    resumed = run(tmp_path, recipe(), name="state", progress=lambda report: steps.append(report.step))
    assert steps == list(range(stop + 1, 13))
    assert same(whole, resumed)
    assert whole.training == resumed.training


def test_threads_may_change_within_a_run(tmp_path) -> None:
    """The checkpoint is that of the same run; the recipe of the last part is in the bundle."""
    seen = []

    def die(report) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, recipe(), name="state", checkpoint_seconds=0, progress=die)
    resumed = run(tmp_path, recipe(threads="2"), name="state", progress=lambda report: seen.append(report.step))
    assert seen[0] == 5
    assert resumed.training["recipe"]["threads"] == 2


def test_another_recipes_checkpoint_is_refused(tmp_path) -> None:
    """A checkpoint belongs to one recipe and one data set; the error says how to discard it."""
    run(tmp_path, recipe(), checkpoint_seconds=0)
    with pytest.raises(CheckpointError, match="another recipe or of other data; .* --fresh"):
        run(tmp_path, recipe(seed="1"))


def test_a_damaged_checkpoint_is_refused(tmp_path) -> None:
    """Half a checkpoint is an error, not a wrong network."""
    run(tmp_path, recipe(), checkpoint_seconds=0)
    path = tmp_path / "state"
    data = path.read_bytes()
    flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    for damaged in (b"", data[:50], data[:-4], b"nothing of the kind", flipped):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            run(tmp_path, recipe())


def test_it_learns(tmp_path) -> None:
    """In 60 steps the loss falls, the accuracy rises, and the entropy regulariser makes the signatures nearly one-hot."""
    reports = []
    bundle = run(tmp_path, recipe(steps="60", batch="16", mixture__entropy="20"), progress=reports.append)
    losses = [report.figures["loss"] for report in reports]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert bundle.training["test_accuracy"]["plain"] > 0.3
    assert bundle.training["mean_max_xi"] > 0.9
    assert [entry["step"] for entry in bundle.training["history"]] == list(range(1, 61))


def test_without_the_regulariser_the_mixture_stays_soft(tmp_path) -> None:
    """The entropy regulariser is what makes signatures nearly one-hot."""
    assert run(tmp_path, recipe(steps="60", mixture__entropy="0")).training["mean_max_xi"] < 0.8


@pytest.mark.parametrize("pattern", ["sequential", "cyclic", "random", "progressive"])
def test_hand_designed_signatures_stay_as_designed(pattern, tmp_path) -> None:
    """A hand-designed signature is discrete from the first step to the last, the same for every task."""
    bundle = run(tmp_path, recipe(mixture__signature=pattern, steps="3", network__layers="4"))
    sequences = {sequence_of(xi_of(signature.parts)) for signature in bundle.signatures.values()}
    assert len(sequences) == 1
    assert None not in next(iter(sequences))


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
def test_every_place_of_gamma_and_beta_trains(affine, tmp_path) -> None:
    """γ and β learn wherever they live, and end up where they belong."""
    bundle = run(tmp_path, recipe(network__affine=affine, steps="5"))
    assert ("bn.affine" in bundle.signatures["plain"].parts) == (affine == "task")
    assert ("bn.affine" in bundle.tensors) == (affine != "task")
    affines = [bundle.resolve(signature).parts["bn.affine"] for signature in bundle.signatures.values()]
    assert np.abs(affines[0][0] - 1).max() > 1e-3
    assert np.array_equal(*affines) == (affine == "layer")


def test_one_template_one_layer(tmp_path) -> None:
    """K = 1 and L = 1 train: ξ is 1, and the regulariser is 0."""
    bundle = run(tmp_path, recipe(network__templates="1", network__layers="1", steps="3"))
    assert np.array_equal(softmax(bundle.signatures["plain"].parts["mixture"]), [[1.0]])


def test_samples_that_are_not_finite_are_refused(tmp_path) -> None:
    """A NaN among the training samples is named with its task, before any step."""
    small = recipe()
    datasets = {task: load_task(entry, small.data, root=None) for task, entry in small.tasks.items()}
    datasets["edges"].train.images[7, 0, 3, 3] = np.nan
    with pytest.raises(DataError, match="task 'edges' has training samples that are not finite, the first is number 7"):
        train(small, datasets, checkpoint=tmp_path / "state")


def test_a_loss_that_is_not_finite_is_an_error(tmp_path) -> None:
    """A checkpoint whose weights have exploded ends with advice, not with a bundle of NaN."""
    run(tmp_path, recipe(), checkpoint_seconds=0)
    path = tmp_path / "state"
    arrays, metadata = tensors.decode(path.read_bytes(), error=CheckpointError, what="")
    arrays["network.templates"][:] = np.inf
    metadata = {**metadata, "step": "3"}
    path.write_bytes(tensors.encode(arrays, {**metadata, "digest": _digest(arrays, metadata)}))
    with pytest.raises(
        RecipeError, match="the loss is nan at step 4; .* lower optimizer.lr or optimizer.mixture_lr_ratio"
    ):
        run(tmp_path, recipe())


@given(st.integers(2, 40), st.integers(2, 30), st.integers(0, 50))
def test_batches_are_a_function_of_the_step(size, batch, step) -> None:
    """Any step can be asked first; an epoch has every sample once; labels belong to their images."""
    images = np.arange(size, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 4, 4), np.float32)
    split = Split(images=images, labels=np.arange(size))

    def make(shift=0):
        return Batches(split, batch=batch, shift=shift, seed=3, task=1)

    x, y = make(shift=2)[step]
    again = make(shift=2)[step]
    assert torch.equal(x, again[0])
    assert torch.equal(y, again[1])
    assert x.shape == (batch, 1, 4, 4)
    assert torch.equal(x[:, 0, 0, 0].long(), y)
    stream = torch.cat([make()[index][1] for index in range(-(-2 * size // batch))])
    assert sorted(stream[:size].tolist()) == list(range(size))
    assert sorted(stream[size : 2 * size].tolist()) == list(range(size))


def test_shift_moves_whole_batches_and_repeats_edges() -> None:
    """A shifted image is the same image moved by up to so many pixels, edges repeated."""
    image = np.random.default_rng(0).uniform(size=(1, 1, 8, 8)).astype(np.float32)
    split = Split(images=np.repeat(image, 4, axis=0), labels=np.arange(4))
    padded = np.pad(image[0, 0], 2, mode="edge")
    possible = [padded[i : i + 8, j : j + 8].tobytes() for i in range(5) for j in range(5)]
    moved = {Batches(split, batch=4, shift=2, seed=0, task=0)[step][0][0, 0].numpy().tobytes() for step in range(60)}
    assert moved <= set(possible)
    assert len(moved) > 10


def test_checkpoints_lie_beside_the_bundle(tmp_path) -> None:
    """The checkpoint is a file with the bundle's name and an ending, beside it."""
    assert checkpoint_path(tmp_path / "bundle") == tmp_path / "bundle.checkpoint"


def test_calibration_sees_every_class(tmp_path, monkeypatch) -> None:
    """BN's final statistics come from a random part of the samples, even where those are sorted by class."""
    import isoform.train.kinds.mixture.run as module

    monkeypatch.setattr(module, "CALIBRATION_LIMIT", 100)
    small = recipe(steps="2")
    datasets = {task: load_task(entry, small.data, root=None) for task, entry in small.tasks.items()}
    seen = []
    network_call = module.IsometricNetwork.forward

    def spy(self, x, task, **options):
        if len(x) == 100:
            seen.append(x)
        return network_call(self, x, task, **options)

    monkeypatch.setattr(module.IsometricNetwork, "forward", spy)
    train(small, datasets, checkpoint=tmp_path / "state")
    images = datasets["plain"].train.images
    rows = [next(i for i, image in enumerate(images) if np.array_equal(image, x)) for x in seen[0].numpy()]
    assert min(rows) < 200
    assert max(rows) > len(images) - 200


def test_tasks_with_labels_of_their_own(shared, tmp_path) -> None:
    """The shipped recipe of two real data sets trains on one set of templates, each task with its own classes."""
    whole = read_recipe("mnist-fashion", {"steps": "4", "batch": "8", "threads": "1", "network.layers": "2"})
    small = dataclasses.replace(
        whole, tasks={name: dataclasses.replace(task, limit=200) for name, task in whole.tasks.items()}
    )
    datasets = {name: load_task(task, small.data, root=shared) for name, task in small.tasks.items()}
    datasets = {
        name: dataclasses.replace(d, test=Split(images=d.test.images[:200], labels=d.test.labels[:200]))
        for name, d in datasets.items()
    }
    bundle = train(small, datasets, checkpoint=tmp_path / "state")
    assert list(bundle.signatures) == ["mnist", "fashion"]
    assert bundle.spec.grid == (7, 7)
    assert {name: len(signature.labels) for name, signature in bundle.signatures.items()} == {
        "mnist": 10,
        "fashion": 10,
    }
