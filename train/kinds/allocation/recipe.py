"""The recipe of an allocation: the layers and their components, how tasks choose among them, and the optimiser."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from isoform.runtime.errors import RecipeError
from isoform.runtime.kinds.allocation.spec import SIZES, LayerSizes, ModularSpec
from isoform.train.fields import Between, Table
from isoform.train.recipe import Recipe

__all__ = ["AllocationRecipe", "AllocationTable", "LayerTable", "NetworkTable", "OptimizerTable"]

_REPEATED = re.compile(r"([1-9]\d?) (\S+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkTable(Table):
    """Sizes of the network: modular layers, whose components tasks choose among, and a logits layer per task."""

    channels: Annotated[int, Between(*SIZES["channels"])] = 48
    """Feature maps of every convolution."""
    stem: bool = False
    """Whether a 1×1 convolution that all tasks share comes first."""
    padding: Literal["same", "valid"] = "same"
    """Whether convolutions pad with zeros, and keep the size of their input, or not."""
    norm_groups: Annotated[int, Between(*SIZES["norm_groups"])] = 0
    """Groups of GroupNorm, a divisor of ``channels``; 0 for no norm."""
    combine: Literal["mean", "sum"] = "mean"
    """How the outputs of a layer's components are combined."""
    components: tuple[str, ...] = ()
    """Components of every layer that names none, such as ``"conv5x5"``, ``"conv3x3-conv3x3"``, ``"maxpool3x3"``, ``"avgpool3x3"`` and ``"identity"``;
    ``"8 conv3x3"`` is eight of them."""
    normalise: bool = True
    """Whether samples are normalised by the mean and deviation of the training samples; the paper's are not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerTable(Table):
    """One modular layer: a table ``[[layers]]`` each, in order."""

    components: tuple[str, ...] = ()
    """Its components; none for those of ``network.components``."""
    stride: Annotated[int, Between(*SIZES["stride"])] = 1
    """Stride of the last operation of every component."""
    pool: Annotated[int, Between(*SIZES["pool"])] = 1
    """Side and stride of the average pool after the layer; 1 for none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllocationTable(Table):
    """How tasks choose components."""

    routing: Literal["learned", "shared", "separate"] = "learned"
    """Learn the masks, or fix them: all tasks use all components (shared bottom), or task i the components i, i + T, … (no sharing)."""
    initial: Annotated[float, Between(1e-6, 1 - 1e-6)] = 0.5
    """Probability of every component at the start."""
    temperature: Annotated[float, Between("temperature_end", 1e6)] = 50.0
    """T of the first update."""
    temperature_end: Annotated[float, Between(1e-3, 1e6)] = 0.5
    """T from which on it no longer falls."""
    budget: Annotated[float, Between(0, 1)] = 1.0
    """Share of all components that a task may use on average without a penalty."""
    budget_weight: Annotated[float, Between(0, 1e4)] = 1.0
    """λ of the penalty on what is used beyond the budget."""
    entropy: Annotated[float, Between(0, 1e4)] = 0.0
    """μ of the entropy penalty at the end of training; 0 for none."""
    entropy_power: Annotated[float, Between(0, 100)] = 1.0
    """α of the entropy penalty's ramp."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerTable(Table):
    """Adam with constant rates."""

    lr: Annotated[float, Between(1e-8, 10)] = 1e-3
    """Learning rate of the weights."""
    allocation_lr_ratio: Annotated[float, Between(0, 1e4)] = 0.0
    """Learning rate of the allocations' logits over that of the weights; 0 for the number of tasks, because each task's logits have a
    gradient in one of so many updates (section V-B)."""
    l2: Annotated[float, Between(0, 1)] = 0.0
    """Added to the loss: l2 / 2 times the sum of squares of all weights, logits layers included, biases and allocations not."""
    dropout: Annotated[float, Between(0, 0.99)] = 0.0
    """Probability of dropout before the logits layers."""
    clip: Annotated[float, Between(0, 1e9)] = 0.0
    """Largest norm of the gradient; 0 for no limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllocationRecipe(Recipe):
    """A ``Recipe`` for modular networks whose tasks use some of the components."""

    kind: ClassVar[str] = "allocation"

    network: NetworkTable = NetworkTable()
    """Sizes of the network."""
    layers: tuple[LayerTable, ...] = ()
    """The modular layers in order, at least one."""
    allocation: AllocationTable = AllocationTable()
    """How tasks choose components."""
    optimizer: OptimizerTable = OptimizerTable()
    """The optimiser."""

    def __post_init__(self) -> None:
        """Check that there are layers, and components in each."""
        super().__post_init__()
        if not self.layers:
            raise RecipeError("the recipe has no modular layer; add a table [[layers]] for each")
        for number, layer in enumerate(self.layers):
            if not (layer.components or self.network.components):
                raise RecipeError(f"layer {number} has no components; list them there or in network.components")

    @classmethod
    def upgraded(cls, value: dict[str, Any]) -> dict[str, Any]:
        """As ``Recipe.upgraded``: ``optimizer.evaluations`` became the table ``validation``."""
        value = super().upgraded(value)
        optimizer = value.get("optimizer")
        if not isinstance(optimizer, Mapping) or "evaluations" not in optimizer:
            return value
        rest = {name: entry for name, entry in optimizer.items() if name != "evaluations"}
        count = optimizer["evaluations"]
        return {**value, "optimizer": rest, **({"validation": {"evaluations": count}} if count else {})}

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
