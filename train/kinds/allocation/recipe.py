"""The recipe of an allocation: the layers and their components, how tasks choose among them, and the optimiser."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from isoform.runtime.errors import RecipeError
from isoform.runtime.kinds.allocation.spec import LayerSizes, ModularSpec
from isoform.train.fields import between
from isoform.train.recipe import Recipe

__all__ = ["AllocationRecipe", "AllocationTable", "LayerTable", "NetworkTable", "OptimizerTable"]

_REPEATED = re.compile(r"([1-9]\d?) (\S+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkTable:
    """Sizes; see ``isoform.runtime.kinds.allocation.spec.ModularSpec``."""

    channels: int = 48
    stem: bool = False
    padding: Literal["same", "valid"] = "same"
    norm_groups: int = 0
    combine: Literal["mean", "sum"] = "mean"
    components: tuple[str, ...] = ()
    """Components of every layer that names none; ``"8 conv3x3"`` is eight of them."""
    normalise: bool = True
    """Whether samples are normalised by the mean and deviation of the training samples; the paper's are not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerTable:
    """One modular layer: a table ``[[layers]]`` each, in order."""

    components: tuple[str, ...] = ()
    """Its components; none for those of ``network.components``."""
    stride: int = 1
    pool: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllocationTable:
    """How tasks choose components."""

    routing: Literal["learned", "shared", "separate"] = "learned"
    """Learn the masks, or fix them: all tasks use all components (shared bottom), or task i the components i, i + T, … (no sharing)."""
    initial: float = 0.5
    """Probability of every component at the start."""
    temperature: float = 50.0
    """T of the first update."""
    temperature_end: float = 0.5
    """T from which on it no longer falls."""
    budget: float = 1.0
    """Share of all components that a task may use on average without a penalty."""
    budget_weight: float = 1.0
    """λ of the penalty on what is used beyond the budget."""
    entropy: float = 0.0
    """μ of the entropy penalty at the end of training; 0 for none."""
    entropy_power: float = 1.0
    """α of its ramp."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        between(self, "initial", 1e-6, 1 - 1e-6)
        between(self, "temperature_end", 1e-3, 1e6)
        between(self, "temperature", self.temperature_end, 1e6)
        between(self, "budget", 0, 1)
        for name in ("budget_weight", "entropy"):
            between(self, name, 0, 1e4)
        between(self, "entropy_power", 0, 100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerTable:
    """Adam with constant rates."""

    lr: float = 1e-3
    allocation_lr_ratio: float = 0.0
    """Learning rate of the allocations' logits over that of the weights; 0 for the number of tasks, because each task's logits have a
    gradient in one of so many updates (section V-B)."""
    l2: float = 0.0
    """Added to the loss: l2 / 2 times the sum of squares of all weights, logits layers included, biases and allocations not."""
    dropout: float = 0.0
    """Probability of dropout before the logits layers."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 for no limit."""
    evaluations: int = 0
    """Number of times that the accuracy on validation samples is measured; the state with the best one is the result. 0 for the last state."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        between(self, "lr", 1e-8, 10)
        between(self, "allocation_lr_ratio", 0, 1e4)
        between(self, "l2", 0, 1)
        between(self, "dropout", 0, 0.99)
        between(self, "clip", 0, 1e9)
        between(self, "evaluations", 0, 1e6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllocationRecipe(Recipe):
    """A ``Recipe`` for modular networks whose tasks use some of the components."""

    kind: ClassVar[str] = "allocation"

    network: NetworkTable = NetworkTable()
    layers: tuple[LayerTable, ...] = ()
    allocation: AllocationTable = AllocationTable()
    optimizer: OptimizerTable = OptimizerTable()

    def __post_init__(self) -> None:
        """Check that there are layers, and components in each."""
        super().__post_init__()
        if not self.layers:
            raise RecipeError("the recipe has no modular layer; add a table [[layers]] for each")
        for number, layer in enumerate(self.layers):
            if not (layer.components or self.network.components):
                raise RecipeError(f"layer {number} has no components; list them there or in network.components")

    def spec(self, *, mean: tuple[float, ...], std: tuple[float, ...]) -> ModularSpec:
        """Make the network's description, for samples of this mean and deviation. Raises ``SpecError`` if no network can have these sizes."""
        table, channels = self.network, self.data.input_shape[0]
        if not table.normalise:
            mean, std = (0.0,) * channels, (1.0,) * channels
        layers = tuple(
            LayerSizes(components=repeated(layer.components or table.components), stride=layer.stride, pool=layer.pool)
            for layer in self.layers
        )
        return ModularSpec(
            input_shape=self.data.input_shape, layers=layers, channels=table.channels, stem=table.stem, padding=table.padding,
            norm_groups=table.norm_groups, combine=table.combine, mean=mean, std=std,
        )  # fmt: skip


def repeated(components: Sequence[str]) -> tuple[str, ...]:
    """Write out repetitions: ``"2 conv3x3"`` becomes ``"conv3x3", "conv3x3"``."""
    found: list[str] = []
    for text in components:
        several = _REPEATED.fullmatch(text)
        found += [several[2]] * int(several[1]) if several else [text]
    return tuple(found)
