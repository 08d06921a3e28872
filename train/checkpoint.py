"""Checkpoints: everything that the next step depends on, in one tensor file that is written atomically.

Batches and torch's random numbers are functions of (seed, step), so no random state is stored. A checkpoint holds the kind's state
(``Run.network``), Adam's moments, the step, and the history so far. It names the recipe and the data that it belongs to; for any
other run it is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isoform.runtime.arrays import Array
from isoform.runtime.errors import CheckpointError
from isoform.runtime.formats import files, tensors

__all__ = ["checkpoint_path", "load_checkpoint", "save_checkpoint"]


def checkpoint_path(bundle: Path) -> Path:
    """Return the path of a run's checkpoint: ``<bundle>.checkpoint`` beside the bundle."""
    return bundle.absolute().with_name(f"{bundle.absolute().name}.checkpoint")


def save_checkpoint(
    path: Path,
    *,
    identity: str,
    step: int,
    history: list[dict[str, float]],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write a checkpoint.

    Args:
        path: The file.
        identity: Digest of everything that decides the run: recipe, torch version and data.
        step: Number of completed steps.
        history: One entry per report so far.
        network: Its ``state_dict`` is stored.
        optimizer: Its state per parameter is stored; its hyper-parameters come from the recipe.
    """
    arrays = {f"network.{name}": value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        arrays.update({f"optimizer.{index}.{name}": value.cpu().numpy() for name, value in state.items()})
    metadata = {"identity": identity, "step": str(step), "history": json.dumps(history, separators=(",", ":"))}
    metadata["digest"] = _digest(arrays, metadata)
    files.write_bytes(path, tensors.encode(arrays, metadata))


def _digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """Compute the sha256 over everything but the digest itself."""
    rest = {name: value for name, value in metadata.items() if name != "digest"}
    return hashlib.sha256(tensors.encode(arrays, rest)).hexdigest()


def load_checkpoint(
    path: Path, *, identity: str, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]]]:
    """Continue from a checkpoint, if there is one.

    Args:
        path: The file; if there is none, the run starts at step 0.
        identity: As in ``save_checkpoint``.
        network: Receives the stored weights and buffers.
        optimizer: Receives the stored moments.

    Returns:
        Number of completed steps, and the history so far.

    Raises:
        CheckpointError: If the file is damaged, or of another recipe or other data.
    """
    if not path.exists():
        return 0, []
    data = files.read_bytes(path, limit=8 << 30, error=CheckpointError, what="checkpoint")
    # Our own tensor format rather than torch.save, whose files are pickles: loading one runs what it says.
    arrays, metadata = tensors.decode(data, error=CheckpointError, what=f"checkpoint {path}")
    if metadata.get("digest") != _digest(arrays, metadata):
        raise CheckpointError(f"{path} does not match its digest; it is damaged, pass --fresh to discard it")
    # After the digest, so that a damaged file is not mistaken for one of another run.
    if metadata.get("identity") != identity:
        raise CheckpointError(
            f"{path} is a checkpoint of another recipe or of other data; finish that run with its recipe, or pass --fresh to discard it"
        )
    try:
        network.load_state_dict(
            {
                name.removeprefix("network."): torch.from_numpy(value)
                for name, value in arrays.items()
                if name.startswith("network.")
            }
        )
        state: dict[int, dict[str, Any]] = {}
        for name, value in arrays.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = torch.from_numpy(value)
        # Hyper-parameters stay those of the recipe: the loop sets the learning rate before every step.
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return int(metadata["step"]), json.loads(metadata["history"])
    except (KeyError, ValueError, RuntimeError) as problem:
        raise CheckpointError(
            f"{path} does not fit the network: {str(problem).splitlines()[0]}; pass --fresh to discard it"
        ) from None
