"""Where a run computes, and in which precision."""

import dataclasses

import numpy as np
import pytest
import torch
from support import isoform_here

from isoform.runtime.errors import UsageError
from isoform.train.batching.batches import Batches
from isoform.train.data.load import load_task
from isoform.train.data.samples import Split
from isoform.train.device import autocast, device_named
from isoform.train.loop import train
from isoform.train.recipe import read_recipe

GPU = torch.cuda.is_available()
FLAGS = {"steps": "12", "network.layers": "2", "batch": "8", "threads": "1", "optimizer.warmup_steps": "3"}


def run(tmp_path, name: str, *, device="cpu", **flags: str):
    """Train one task of the digits."""
    whole = read_recipe("digits", {**FLAGS, **flags})
    recipe = dataclasses.replace(whole, tasks={"plain": whole.tasks["plain"]})
    datasets = {task: load_task(entry, recipe.data, root=None) for task, entry in recipe.tasks.items()}
    return train(recipe, datasets, checkpoint=tmp_path / name, device=device)


def test_bf16_is_for_the_products_of_a_step(tmp_path) -> None:
    """The products of a step are of bfloat16; weights, losses and answers stay float32, and the network is nearly that of float32."""
    samples = {0: (torch.zeros(1), torch.zeros(1))}
    with autocast(samples, "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(samples, "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    half, whole = run(tmp_path, "half", precision="bf16"), run(tmp_path, "whole")
    assert half.training["recipe"]["precision"] == "bf16"
    assert "precision" not in whole.training["recipe"]
    for name, value in whole.tensors.items():
        assert half.tensors[name].dtype == value.dtype
        if value.dtype == np.float32:
            assert 0 < np.linalg.norm(half.tensors[name] - value) < 0.1 * max(np.linalg.norm(value), 0.1)


def test_a_device_that_is_not_there_is_refused(tmp_path) -> None:
    """One line, before anything is trained; auto takes what there is."""
    assert device_named("auto").type == ("cuda" if GPU else "cpu")
    with pytest.raises(UsageError, match="the device is 'tpu', but cpu"):
        device_named("tpu")
    if not GPU:
        result = isoform_here("train", "digits", "-o", tmp_path / "b", "--steps", 1, "--device", "cuda")
        assert result.returncode == 2
        assert result.stderr.splitlines() == [
            "isoform train: the device is 'cuda', but cpu or auto, because torch finds no GPU here, was expected"
        ]
        assert not (tmp_path / "b").exists()


def test_batches_are_where_the_network_is() -> None:
    """Samples and labels are moved to the device of the run."""
    split = Split(images=np.zeros((8, 1, 4, 4), np.float32), labels=np.zeros(8, np.int64))
    batches = Batches(split, batch=4, shift=0, seed=0, task=0, device="meta")
    assert [part.device.type for part in batches[0]] == ["meta", "meta"]


@pytest.mark.skipif(not GPU, reason="torch finds no GPU")
def test_a_gpu_trains_the_same_network(tmp_path) -> None:
    """From the same weights with the same batches: nearly the processor's templates, on the processor, and the bundle names the GPU."""
    here, there = run(tmp_path, "here"), run(tmp_path, "there", device="cuda")
    assert there.training["device"]
    for name, value in here.tensors.items():
        if value.dtype == np.float32:
            assert np.linalg.norm(there.tensors[name] - value) < 0.01 * max(np.linalg.norm(value), 0.1)
