"""How many blocks of 16×16 the networks of MUIR's experiments have (section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from isoform.runtime.kinds.alignment.packing import Cut
from isoform.train.kinds.alignment.architectures import DeepBind, LanguageModel, LeNet, WideResNet

__all__ = ["PAPER", "counts"]

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "lenet": LeNet, "lstm": lambda: LanguageModel(10), "deepbind": DeepBind, "wrn": WideResNet,
}  # fmt: skip
PAPER = {"lenet": 361, "lstm": 4096, "deepbind": 6400, "wrn": 2268}


def counts() -> dict[str, int]:
    """Return each network's number of blocks."""
    found = {}
    for name, make in NETWORKS.items():
        network = make()
        shapes = {parameter: tuple(value.shape) for parameter, value in network.named_parameters()}
        found[name] = sum(Cut(shapes[parameter], 16, 16).count for parameter in network.aligned)  # type: ignore[union-attr]
    return found
