"""Two processes train what one would."""

import os
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import two_processes

from isoform.train.data.load import load_tasks
from isoform.train.loop import train
from isoform.train.recipe import read_recipe


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes wrote, and their folder."""
    folder = tmp_path_factory.mktemp("two")
    command = [
        Path(sysconfig.get_path("scripts")) / "torchrun",
        "--standalone",
        "--nproc-per-node",
        "2",
        two_processes.__file__,
        folder,
    ]
    result = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    return [dict(np.load(folder / f"{rank}.npz")) for rank in (0, 1)], folder


def test_statistics_are_of_the_whole_batch(found) -> None:
    """BN's answers, running statistics and gradients, and dropout's draws; every process has every second sample."""
    for rank, own in enumerate(found[0]):
        for name in ("out", "dropped"):
            np.testing.assert_allclose(own[f"own.{name}"], own[f"whole.{name}"][rank::2], atol=2e-5)
        np.testing.assert_allclose(own["own.statistics"], own["whole.statistics"], rtol=1e-5)
        # of the mean over a process's own samples, of which there are half as many
        np.testing.assert_allclose(own["own.z"], 2 * own["whole.z"][rank::2], atol=1e-4)
    mean = (found[0][0]["own.affine"] + found[0][1]["own.affine"]) / 2
    np.testing.assert_allclose(mean, found[0][0]["whole.affine"], rtol=1e-4, atol=1e-4)
    assert np.ptp(found[0][0]["whole.z"]) > 0.1


def test_gradients_figures_and_flags_are_those_of_all(found) -> None:
    """Means, the same in both; a flag of one stops both; networks that are not the same are noticed."""
    for own in found[0]:
        np.testing.assert_array_equal(own["gradients"], [0.5] * 3 + [2.5] * 4)
        np.testing.assert_array_equal(own["figures"], [[1.0, 0.5]])
        assert own["flags"].tolist() == [True, False]
        assert str(own["differ"]) == "the processes of this run have different networks; they have to be the same"


def test_a_network_trained_by_two_is_that_of_one(found, tmp_path) -> None:
    """Up to rounding, with dropout and clipped gradients; stopped by one of them and resumed; both have the same bits. One goes on where two stopped."""
    recipe = read_recipe("digits-allocation", two_processes.ALLOCATION)
    datasets = load_tasks(recipe.tasks, recipe.data, root=None)
    alone = train(recipe, datasets, checkpoint=tmp_path / "state")
    first, second = found[0]
    np.testing.assert_allclose(first["loss"], [entry["loss"] for entry in alone.training["history"]], atol=1e-4)
    for name, array in alone.tensors.items():
        np.testing.assert_array_equal(first[f"trained.{name}"], second[f"trained.{name}"])
        np.testing.assert_allclose(first[f"trained.{name}"], array, atol=1e-4)
    assert first["stopped"].tolist() == second["stopped"].tolist() == [1, 2, 3]
    steps = []
    again = train(recipe, datasets, checkpoint=found[1] / "half", progress=lambda report: steps.append(report.step))
    assert steps == [4, 5, 6]
    for name, array in again.tensors.items():
        np.testing.assert_allclose(array, first[f"trained.{name}"], atol=1e-4)


def test_a_checkpoint_that_only_one_sees_stops_both(found) -> None:
    """As on two machines without a common folder: no steps of different networks are averaged."""
    for own in found[0]:
        assert str(own["elsewhere"]).endswith(
            "all of them have to see the same checkpoint, in the folder of the output"
        )


def test_bfloat16_is_normalised_in_float32(found) -> None:
    """Channels whose mean is large beside their deviation, of which bfloat16 holds two digits."""
    for rank, own in enumerate(found[0]):
        np.testing.assert_allclose(own["own.bf16"], own["whole.bf16"][rank::2], atol=0.03)
