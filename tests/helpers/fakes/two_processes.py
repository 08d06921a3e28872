"""What each of two processes of a run does in ``test_reduced.py``: run by torchrun, with a folder; writes what it found to ``RANK.npz``."""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from isoform.runtime.errors import IsoformError
from isoform.train.data.load import load_tasks
from isoform.train.loop import train
from isoform.train.parallel import reduced
from isoform.train.recipe import read_recipe

ALLOCATION = {"steps": "6", "batch": "8", "threads": "1", "optimizer.clip": "0.5", "optimizer.dropout": "0.5"}
"""Dropout, and a limit of the gradient."""


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Random numbers, the same in every process."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normalised(z, whole):
    """What BN returns, its gradients, and its running statistics after one batch."""
    affine, statistics = (1 + drawn(1, 2, 3)).requires_grad_(), torch.stack([torch.zeros(3), torch.ones(3)])
    z = z.clone().requires_grad_()
    mean, variance = statistics
    if whole:
        out = F.batch_norm(z, mean, variance, *affine, training=True, momentum=0.3, eps=1e-3)
    else:
        out = reduced.batch_norm(z, mean, variance, affine, momentum=0.3, eps=1e-3)
    # a loss that is a mean over samples, as all are that are split
    (out**3).sum((1, 2, 3)).mean().backward()
    return [value.detach().numpy() for value in (out, z.grad, affine.grad, statistics)]


def main(folder: Path) -> None:
    """Compare sums with those of a whole batch, and train."""
    found = {}
    z = 5 + 2 * drawn(0, 8, 3, 4, 4)
    place = reduced.together(torch.device("cpu"))
    for name, value in zip(("out", "z", "affine", "statistics"), normalised(reduced.part(z), False), strict=True):
        found[f"own.{name}"] = value
    with reduced.alone():
        alone = normalised(z, False)
    for name, value, same in zip(("out", "z", "affine", "statistics"), normalised(z, True), alone, strict=True):
        found[f"whole.{name}"] = value
        np.testing.assert_array_equal(value, same)
    large = (23 + 0.5 * drawn(5, 8, 3, 4, 4)).bfloat16()
    for name, value in (("own", reduced.part(large)), ("whole", large)):
        mean, variance, affine = torch.zeros(3), torch.ones(3), torch.stack([torch.ones(3), torch.zeros(3)])
        if name == "own":
            normal = reduced.batch_norm(value, mean, variance, affine, momentum=0.3, eps=1e-3)
        else:
            normal = F.batch_norm(value, mean, variance, *affine, training=True, momentum=0.3, eps=1e-3)
        assert normal.dtype == torch.bfloat16
        found[f"{name}.bf16"] = normal.float().numpy()
    torch.manual_seed(3)
    found["own.dropped"] = reduced.dropout(reduced.part(z), 0.5).numpy()
    torch.manual_seed(3)
    found["whole.dropped"] = F.dropout(z, 0.5).numpy()
    gradients = [torch.full((3,), float(place.rank)), None, torch.full((2, 2), 2.0 + place.rank)]
    found["figures"] = np.array(
        [[*entry.values()] for entry in reduced.average(gradients, [{"a": 1.0, "b": place.rank}])]
    )
    found["gradients"] = np.concatenate([gradient.flatten().numpy() for gradient in gradients if gradient is not None])
    found["flags"] = np.array([reduced.any_of(place.rank == 1), reduced.any_of(False)])
    reduced.check_same([torch.ones(2)], because="")
    try:
        reduced.check_same([torch.ones(2) * place.rank], because="they have to be the same")
    except IsoformError as problem:
        found["differ"] = np.array(str(problem))
    recipe = read_recipe("digits-allocation", ALLOCATION)
    datasets = load_tasks(recipe.tasks, recipe.data, root=None)
    # stopped by one of the two, after the third step; both go on
    steps: list[int] = []
    try:
        train(
            recipe, datasets, checkpoint=folder / "state", checkpoint_seconds=1e9, progress=lambda report: steps.append(report.step),
            stop=lambda: place.rank == 1 and len(steps) == 3,
        )  # fmt: skip
    except KeyboardInterrupt:
        found["stopped"] = np.array(steps)
    reduced.wait()
    if place.first:
        shutil.copy(folder / "state", folder / "half")
    reduced.wait()
    bundle = train(recipe, datasets, checkpoint=folder / "state", checkpoint_seconds=1e9)
    # a checkpoint that only one of them sees
    try:
        train(recipe, datasets, checkpoint=folder / ("half" if place.first else "nowhere"))
    except IsoformError as problem:
        found["elsewhere"] = np.array(str(problem))
    found |= {f"trained.{name}": array for name, array in bundle.tensors.items()}
    found["loss"] = np.array([entry["loss"] for entry in bundle.training["history"]])
    np.savez(folder / f"{place.rank}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
