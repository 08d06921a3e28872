"""The recipe of an alignment: each task's network, the blocks, the search for which hypermodule makes which block, and the optimiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

from isoform.runtime.errors import RecipeError
from isoform.train.fields import between
from isoform.train.recipe import Recipe

__all__ = ["AlignmentRecipe", "BlockTable", "NetworkTable", "OptimizerTable", "SearchTable"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkTable:
    """The network of one task: a table ``[networks.<task>]`` each. See ``architectures.py``."""

    type: Literal["lenet", "wrn", "lstm", "deepbind"]
    """LeNet or a wide residual network for images, an LSTM for the next token of a text, DeepBind for DNA."""
    depth: int = 40
    """Layers of ``wrn``: 10, 16, 22, …"""
    width: int = 256
    """Features of ``lstm`` and ``deepbind``."""
    kernel: int = 24
    """Letters that the convolution of ``deepbind`` spans."""
    dropout: float = 0.2
    """Of ``lstm``."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        between(self, "depth", 10, 1000)
        between(self, "width", 1, 65536)
        between(self, "kernel", 1, 1024)
        between(self, "dropout", 0, 0.99)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockTable:
    """The blocks that weights are cut into."""

    inputs: int = 16
    """m."""
    outputs: int = 16
    """n."""
    context: int = 4
    """c, numbers by which a location makes a block of a hypermodule; 0 to share blocks as they are."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        between(self, "inputs", 1, 1024)
        between(self, "outputs", 1, 1024)
        between(self, "context", 0, 256)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchTable:
    """The evolution of the alignment; see ``search.py``."""

    generation: int = 50
    """Steps of one generation."""
    first: int = 2
    """Generations without challengers at the start."""
    final: int = 0
    """Generations at the end without challengers, in which the networks learn to do with the modules that were chosen."""
    share: float = 0.5
    """Share of the locations that are challenged at a time; 0 for no search, each location keeps a hypermodule of its own."""
    challengers: int = 1
    """λ, of each challenged location."""
    alpha: float = 0.5
    """α, probability that all challengers of a location have together at the start."""
    reactivation: float = 1e-4
    """Probability that a challenger is a hypermodule that nobody uses, made anew."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        between(self, "generation", 1, 1e6)
        between(self, "first", 0, 1e6)
        between(self, "final", 0, 1e6)
        between(self, "share", 0, 1)
        between(self, "challengers", 1, 64)
        between(self, "alpha", 1e-6, 1 - 1e-6)
        between(self, "reactivation", 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerTable:
    """Adam with constant rates."""

    lr: float = 1e-3
    """Of everything but the scores."""
    score_lr: float = 0.1
    """Of the candidates' scores."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        between(self, "lr", 1e-8, 10)
        between(self, "score_lr", 1e-8, 10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignmentRecipe(Recipe):
    """Everything that decides the result of a training run of kind ``alignment``."""

    kind: ClassVar[str] = "alignment"
    networks: Mapping[str, NetworkTable] = dataclasses.field(default_factory=dict)
    blocks: BlockTable = dataclasses.field(default_factory=BlockTable)
    search: SearchTable = dataclasses.field(default_factory=SearchTable)
    optimizer: OptimizerTable = dataclasses.field(default_factory=OptimizerTable)

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
