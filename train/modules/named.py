"""A module by the name that torchvision or timm has for it, with weights from a file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoform.runtime.errors import MissingExtraError, SpecError, UsageError, first_line

__all__ = ["named_module"]

LIBRARIES = ("torchvision", "timm")


def named_module(name: str, *, classes: int, state: str | Path | Mapping[str, Tensor] | None = None) -> nn.Module:
    """Make a network by name.

    Args:
        name: Library and name, such as ``torchvision:resnet18`` or ``timm:mobilenetv3_small_100``.
        classes: Number of logits.
        state: Weights: a state dict, or a file that ``torch.save`` wrote of one, which is read without running code that it may hold.
            None for random ones from torch's global generator.

    Returns:
        The network in evaluation mode, for ``wrap``.

    Raises:
        UsageError: If the name has another form.
        MissingExtraError: If the library is not installed.
        SpecError: If it has no such network, or the weights do not fit it.
    """
    library, _, model = name.partition(":")
    if library not in LIBRARIES or not model:
        raise UsageError(f"the network is {name!r}, but torchvision:NAME or timm:NAME was expected")
    try:
        place = importlib.import_module("torchvision.models" if library == "torchvision" else "timm")
    except (
        ImportError,
        RuntimeError,
    ) as problem:  # torchvision raises RuntimeError where its operators are for another torch
        raise MissingExtraError(
            f"{name} needs {library}, which cannot be imported: {first_line(problem)}; pip install {library}"
        ) from None
    make = place.get_model if library == "torchvision" else place.create_model
    try:
        module: nn.Module = make(model, num_classes=classes)
    except Exception as problem:  # the libraries' errors for unknown names have no common base
        raise SpecError(f"{library} has no network {model!r} for {classes} classes: {first_line(problem)}") from None
    if state is not None:
        _load(module, _read(state) if isinstance(state, str | Path) else state, name)
    return module.eval()


def _read(path: str | Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # torch's errors of reading have no common base
        raise SpecError(
            f"{path} is not a file of weights: {first_line(problem)}; write one with torch.save(model.state_dict(), path)"
        ) from None


def _load(module: nn.Module, state: Any, name: str) -> None:
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SpecError(f"the weights for {name} are no state dict; save model.state_dict() instead of the model")
    own = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    for key in sorted({*own} ^ {*state}):
        where = "are missing in the weights" if key in own else "are not part of the network"
        raise SpecError(f"the weights do not fit {name}: {key} and perhaps others {where}")
    for key, shape in own.items():
        if tuple(state[key].shape) != shape:
            raise SpecError(
                f"the weights do not fit {name}: {key} is {tuple(state[key].shape)}, but {shape} was expected; is the number of classes right?"
            )
    module.load_state_dict(state)
