"""The interface (door) between the training loop and the kinds of networks.

    Trainer   what is known of a kind without torch: its recipe, and how its progress is printed
    Run       one training run: the network, its loss, and the bundle at the end
    Group     parameters with the same learning rate and weight decay
    Loss      the loss of one update

All kinds share the data, the batches of every task, the optimiser (AdamW), the loop and the checkpoints (``loop.py``,
``checkpoint.py``). The loop calls a run as follows in each step:

    for tasks in run.begin(step, optimizer):              one update after the other
        loss = run.loss(step, {task: batch, …})           then the backward pass and the optimiser's step
    run.figures()

So an update may use all tasks (Compositional Models) or a single one, in any order (Gumbel-Matrix, section IV). Whatever happens at
intervals, such as a generation of an evolution (MUIR, algorithm 1), happens in ``begin``.

Before each step torch's global generator is seeded by (seed, step). So dropout and sampling noise need no stored state, and a resumed
run draws the same numbers as an uninterrupted one. ``Run.network`` is the only state of a run.

To add a kind, make a folder below ``kinds/`` whose ``trainer.py`` defines ``TRAINER``, and add its line to ``TRAINERS``. This module
never imports torch, and imports a kind only on demand.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from isoform.runtime.errors import RecipeError

if TYPE_CHECKING:  # recipes are read and flags listed where torch is not installed
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from isoform.runtime.formats.bundle import Bundle
    from isoform.train.data.samples import Dataset

__all__ = ["TRAINERS", "Group", "Loss", "Run", "Trainer", "trainer_named", "trainer_of"]

TRAINERS = {
    "mixture": "isoform.train.kinds.mixture.trainer",
    "allocation": "isoform.train.kinds.allocation.trainer",
    "alignment": "isoform.train.kinds.alignment.trainer",
}
"""Name of each kind → the module that defines its ``TRAINER``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters with the same learning rate, weight decay and betas."""

    parameters: Sequence[nn.Parameter]
    """An empty group is left out."""
    rate: Callable[[int], float]
    """Learning rate as a function of the step, which starts at 0 (``isoform.train.schedule``)."""
    field: str
    """The recipe field that sets the rate; the error names it when the loss is no longer finite."""
    weight_decay: float = 0.0
    """AdamW's weight decay; with 0 it is Adam."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates of the gradient's mean and mean square."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of one update."""

    total: Tensor
    """The loss to minimise, shape (), regularisers included."""
    figures: Mapping[str, float]
    """Figures to report, such as ``loss`` and ``accuracy``; the same names in every update. A step reports the means over its updates."""
    clip: float | None = None
    """Largest norm of the gradient over all parameters; a larger gradient is scaled down. None for no limit."""


class Run(Protocol):
    """One training run. Tasks are indices in the recipe's order."""

    @property
    def network(self) -> nn.Module:
        """All state of the run: a checkpoint stores its ``state_dict`` (float32, float16 or integers; no booleans)."""

    def groups(self) -> Sequence[Group]:
        """Return the trained parameters with their rates; called once, before the first step. Checkpoints store moments in this order."""

    def begin(self, step: int, optimizer: Optimizer) -> Sequence[Sequence[int]]:
        """Prepare a step, without gradients: lower a temperature, select and mutate candidates.

        Args:
            step: The step, from 0. A resumed run begins with the step in which it was interrupted.
            optimizer: Its state for a parameter may be dropped here.

        Returns:
            The tasks of each update of the step; at least one update.
        """

    def loss(self, step: int, batches: Mapping[int, tuple[Tensor, Tensor]]) -> Loss:
        """Compute the loss of an update.

        Args:
            step: The step, from 0.
            batches: Task → samples, shape (n, …), float32, and labels, shape (n,), int64; for this update's tasks.
        """

    def figures(self) -> Mapping[str, float]:
        """Return figures of the network to report after a step, in addition to the losses'; may be empty."""

    def state(self) -> Sequence[Tensor]:
        """Return the tensors that decide the answers, parameters and statistics, always the same ones in the same order; no record of the run."""

    def finish(self) -> None:
        """Complete the network after the last step, for example BN's statistics or the best state; an interrupted run never gets here."""

    def logits(self, x: Tensor, task: int) -> Tensor:
        """Run the final network: samples, shape (n, …), float32 → logits, shape (n, classes of the task), float32."""

    def told(self) -> Mapping[str, Any]:
        """Return short facts about the result for ``bundle.json`` and the summary, as JSON types."""

    def bundle(self, training: Mapping[str, Any]) -> Bundle:
        """Make the bundle: templates and a complete base signature per task. ``training`` is recorded in it."""


class Trainer(Protocol):
    """A kind before training starts. Its module must be importable without torch."""

    @property
    def recipe(self) -> type[Any]:
        """The recipe class: a frozen dataclass that extends ``isoform.train.recipe.Recipe`` by the kind's tables; its ``kind`` is the kind's name."""

    def undivided(self, recipe: Any) -> str:
        """Return why several processes cannot share the batches of a recipe (``parallel/reduced.py``), as in *a recipe …*; empty if they can.

        They can if the gradient is a mean over samples, and nothing else of a batch is kept, such as the BN statistics of a module that the
        kind did not write.
        """

    def start(self, recipe: Any, datasets: Mapping[str, Dataset]) -> Run:
        """Make a run, before its first step; a function of the recipe and the data.

        Args:
            recipe: A recipe of this kind.
            datasets: Task → its samples, both halves, finite.

        Raises:
            IsoformError: If no network can have these sizes.
        """

    def line(self, figures: Mapping[str, float]) -> str:
        """Format the figures of a step for the progress bar."""


def trainer_named(name: object, *, where: str = "recipe") -> Trainer:
    """Import and return the trainer of a kind.

    Args:
        name: The kind, as the recipe names it.
        where: Name of the recipe for errors.

    Raises:
        RecipeError: If there is no such kind.
    """
    if not isinstance(name, str) or name not in TRAINERS:
        raise RecipeError(f"{where}, kind is {name!r}, but {' or '.join(map(repr, TRAINERS))} was expected")
    found: Trainer = importlib.import_module(TRAINERS[name]).TRAINER
    return found


def trainer_of(recipe: Any) -> Trainer:
    """Return the trainer of a recipe's kind. Raises ``RecipeError`` if there is no such kind."""
    return trainer_named(recipe.kind)
