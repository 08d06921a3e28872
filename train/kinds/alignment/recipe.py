"""The recipe of an alignment: each task's network, the blocks, the search for which hypermodule makes which block, and the optimiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from isoform.runtime.errors import RecipeError
from isoform.train.fields import Between, Table
from isoform.train.recipe import Recipe

__all__ = ["AlignmentRecipe", "BlockTable", "NetworkTable", "OptimizerTable", "SearchTable"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkTable(Table):
    """The network of one task: a table ``[networks.<task>]`` each."""

    type: Literal["lenet", "wrn", "lstm", "deepbind"]
    """LeNet or a wide residual network for images, an LSTM for the next token of a text, DeepBind for DNA."""
    depth: Annotated[int, Between(10, 1000)] = 40
    """Layers of ``wrn``: 10, 16, 22, …"""
    width: Annotated[int, Between(1, 65536)] = 256
    """Features of ``lstm`` and ``deepbind``."""
    kernel: Annotated[int, Between(1, 1024)] = 24
    """Letters that the convolution of ``deepbind`` spans."""
    dropout: Annotated[float, Between(0, 0.99)] = 0.2
    """Probability of dropout in ``lstm``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockTable(Table):
    """The blocks that weights are cut into."""

    inputs: Annotated[int, Between(1, 1024)] = 16
    """m, the inputs of a block."""
    outputs: Annotated[int, Between(1, 1024)] = 16
    """n, the outputs of a block."""
    context: Annotated[int, Between(0, 256)] = 4
    """c, numbers by which a location makes a block of a hypermodule; 0 to share blocks as they are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchTable(Table):
    """The evolution of the alignment, which chooses the hypermodule that makes each block."""

    generation: Annotated[int, Between(1, 1e6)] = 50
    """Steps of one generation."""
    first: Annotated[int, Between(0, 1e6)] = 2
    """Generations without challengers at the start."""
    final: Annotated[int, Between(0, 1e6)] = 0
    """Generations at the end without challengers, in which the networks learn to do with the modules that were chosen."""
    share: Annotated[float, Between(0, 1)] = 0.5
    """Share of the locations that are challenged at a time; 0 for no search, each location keeps a hypermodule of its own."""
    challengers: Annotated[int, Between(1, 64)] = 1
    """λ, the number of challengers of each challenged location."""
    alpha: Annotated[float, Between(1e-6, 1 - 1e-6)] = 0.5
    """α, probability that all challengers of a location have together at the start."""
    reactivation: Annotated[float, Between(0, 1)] = 1e-4
    """Probability that a challenger is a hypermodule that nobody uses, made anew."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerTable(Table):
    """Adam with constant rates."""

    lr: Annotated[float, Between(1e-8, 10)] = 1e-3
    """Learning rate of everything but the scores."""
    score_lr: Annotated[float, Between(1e-8, 10)] = 0.1
    """Learning rate of the candidates' scores."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignmentRecipe(Recipe):
    """Everything that decides the result of a training run of kind ``alignment``."""

    kind: ClassVar[str] = "alignment"
    networks: Mapping[str, NetworkTable] = dataclasses.field(default_factory=dict)
    """The network of every task, by the task's name."""
    blocks: BlockTable = dataclasses.field(default_factory=BlockTable)
    """The blocks that weights are cut into."""
    search: SearchTable = dataclasses.field(default_factory=SearchTable)
    """The evolution of the alignment."""
    optimizer: OptimizerTable = dataclasses.field(default_factory=OptimizerTable)
    """The optimiser."""

    def __post_init__(self) -> None:
        """Check that every task has a network, and no other name does."""
        super().__post_init__()
        without, unknown = ({*self.tasks} - {*self.networks}, {*self.networks} - {*self.tasks})
        if without:
            name = min(without)
            raise RecipeError(
                f'task {name!r} has no network; add a table such as [networks.{name}] with type = "lenet"'
            )
        if unknown:
            raise RecipeError(
                f"there is a network of {min(unknown)!r}, but no such task; the tasks are {', '.join(self.tasks)}"
            )
        generations = self.steps / self.search.generation
        if self.search.final and self.search.first + self.search.final >= generations:
            raise RecipeError(
                f"search.first and search.final are {self.search.first} and {self.search.final} generations, but {self.steps} steps have {generations:g}"
            )
