"""The door between training and the kinds of networks.

    Trainer   what is known of a kind before anything is trained: its recipe, and how its progress reads
    Run       one training run of it: the network, what is minimised, and the bundle at the end
    Group     parameters that are trained alike
    Loss      what one update minimises

All kinds share the data, the batches of every task, the optimiser (AdamW), the loop and the checkpoints (``loop.py``,
``checkpoint.py``). A step of the loop, in the order in which the run is asked:

    for tasks in run.begin(step, optimizer):              one update after the other
        loss = run.loss(step, {task: batch, …})           then backward, and the optimiser's step
    run.figures()

So one update may be over all tasks (Compositional Models) or one task's, in any order (Gumbel-Matrix, section IV), and what happens
every so many steps, such as a generation of an evolution (MUIR, algorithm 1), begins a step.

Before each step torch's own generator is seeded by (seed, step): dropout and sampling noise need nothing stored, and a resumed run
draws what the whole one drew. A run holds no other state than ``Run.network``.

Add a kind: a folder below ``kinds/`` whose ``trainer.py`` has ``TRAINER``, and its line in ``TRAINERS``. Never imports torch, and a
kind only when one is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from isoform.runtime.errors import RecipeError

if TYPE_CHECKING:  # recipes are read, and the flags listed, where torch is not installed
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from isoform.runtime.formats.bundle import Bundle
    from isoform.train.data.samples import Dataset

__all__ = ["TRAINERS", "Group", "Loss", "Run", "Trainer", "trainer_named", "trainer_of"]

TRAINERS = {"mixture": "isoform.train.kinds.mixture.trainer"}
"""Name of each kind → the module that has its trainer as ``TRAINER``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters that are trained alike."""

    parameters: Sequence[nn.Parameter]
    """May be none; the group is left out then."""
    rate: Callable[[int], float]
    """Their learning rate as a function of the step, from 0 (``isoform.train.schedule``)."""
    field: str
    """The recipe's field that sets the rate: what to lower when the loss is not finite any more."""
    weight_decay: float = 0.0
    """AdamW's; without it, it is Adam."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's, for the mean and for the mean square."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """What one update minimises."""

    total: Tensor
    """A number to go down from, shape (), regularisers included."""
    figures: Mapping[str, float]
    """What to tell of the update, such as ``loss`` and ``accuracy``; the same names every time. A step's are the means over its updates."""
    clip: float | None = None
    """The gradient's largest norm, over all that is trained; a longer one is scaled down to it."""


class Run(Protocol):
    """One training run. Tasks are indices, in the recipe's order."""

    @property
    def network(self) -> nn.Module:
        """All that is trained or kept: its ``state_dict`` is what a checkpoint holds (float32, float16, or integers; no bits)."""

    def groups(self) -> Sequence[Group]:
        """What is trained, and how fast; asked once, before the first step. The order is that of the checkpoint's moments."""

    def begin(self, step: int, optimizer: Optimizer) -> Sequence[Sequence[int]]:
        """Make ready for a step, without gradients: move a temperature, select and vary candidates.

        Args:
            step: The step, from 0. A resumed run begins with the one that it was stopped in.
            optimizer: Whose state for a parameter may be dropped.

        Returns:
            The tasks of each of the step's updates, one at least.
        """

    def loss(self, step: int, batches: Mapping[int, tuple[Tensor, Tensor]]) -> Loss:
        """What an update minimises.

        Args:
            step: The step, from 0.
            batches: Task → samples, shape (n, …), float32, and labels, shape (n,), int64; of this update's tasks.
        """

    def figures(self) -> Mapping[str, float]:
        """What to tell of the network after a step, beside the losses' figures; may be nothing."""

    def finish(self) -> None:
        """What is to be done after the last step, and not at all in a run that was stopped: BN's statistics, the best state."""

    def logits(self, x: Tensor, task: int) -> Tensor:
        """The network as it will be shipped: samples, shape (n, …), float32 → logits, shape (n, classes of the task), float32."""

    def told(self) -> Mapping[str, Any]:
        """What ``bundle.json`` and the summary say of the result, as JSON types; short."""

    def bundle(self, training: Mapping[str, Any]) -> Bundle:
        """Templates, and a complete base signature for each task; ``training`` is to be recorded in it."""


class Trainer(Protocol):
    """One kind, before anything is trained. Its module is imported where torch is not installed."""

    @property
    def recipe(self) -> type[Any]:
        """The recipe: a frozen dataclass that extends ``isoform.train.recipe.Recipe`` by the kind's tables; its ``kind`` is the name here."""

    def start(self, recipe: Any, datasets: Mapping[str, Dataset]) -> Run:
        """A run before its first step: a function of the recipe and the data.

        Args:
            recipe: One of this kind's.
            datasets: Task → its samples, both halves, finite.

        Raises:
            IsoformError: If no network can have such sizes.
        """

    def line(self, figures: Mapping[str, float]) -> str:
        """The figures of a step, as the progress bar shows them."""


def trainer_named(name: object, *, where: str = "recipe") -> Trainer:
    """The trainer of a kind, imported if it is not yet.

    Args:
        name: The kind, as a recipe says it.
        where: What to call the recipe in errors.

    Raises:
        RecipeError: If there is no such kind.
    """
    if not isinstance(name, str) or name not in TRAINERS:
        raise RecipeError(f"{where}, kind is {name!r}, but {' or '.join(map(repr, TRAINERS))} was expected")
    found: Trainer = importlib.import_module(TRAINERS[name]).TRAINER
    return found


def trainer_of(recipe: Any) -> Trainer:
    """What trains by a recipe. Raises ``RecipeError`` if nothing does."""
    return trainer_named(recipe.kind)
