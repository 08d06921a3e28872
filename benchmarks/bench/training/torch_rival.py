"""The usual way: a data set of files, decoded by Pillow, in torch's ``DataLoader``, with the same network, batch, threads and worker processes.

    python torch_rival.py FOLDER RECIPE STEPS WORKERS

Prints JSON: seconds of the steps, and of those the seconds in which the loop waited for the loader.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from isoform.train.kinds.mixture.network import IsometricNetwork
from isoform.train.kinds.mixture.recipe import MixtureRecipe
from isoform.train.recipe import read_recipe


class Files(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """As torchvision's ``ImageFolder`` with ``ToTensor``, which PyPI's builds do not import beside every torch."""

    def __init__(self, folder: Path) -> None:
        self.classes = sorted(place.name for place in folder.iterdir())
        self._files = [
            (path, label) for label, name in enumerate(self.classes) for path in sorted((folder / name).iterdir())
        ]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        path, label = self._files[row]
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
        return pixels.permute(2, 0, 1).float() / 255, label


def main() -> None:
    """Train for so many steps, after one that warms up."""
    folder, name, steps, workers = sys.argv[1:]
    recipe = read_recipe(name, {})
    assert isinstance(recipe, MixtureRecipe)
    torch.set_num_threads(recipe.threads or torch.get_num_threads())
    spec = recipe.network.spec(recipe.data.input_shape, mean=(0.5,) * 3, std=(0.25,) * 3)
    data = Files(Path(folder))
    network = IsometricNetwork(spec, (len(data.classes),), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    loader = torch.utils.data.DataLoader(
        data, batch_size=recipe.batch, shuffle=True, num_workers=int(workers), drop_last=True
    )
    batches, waited, began = iter(loader), 0.0, 0.0
    for step in range(int(steps) + 1):
        asked = time.perf_counter()
        if step == 1:
            waited, began = 0.0, asked
        try:
            x, y = next(batches)
        except StopIteration:
            batches = iter(loader)
            x, y = next(batches)
        waited += time.perf_counter() - asked
        optimizer.zero_grad()
        F.cross_entropy(network(x, 0, momentum=0.1), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    print(json.dumps({"seconds": time.perf_counter() - began, "waited": waited, "folder": Path(folder).name}))


if __name__ == "__main__":
    main()
