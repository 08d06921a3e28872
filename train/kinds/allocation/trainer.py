"""The trainer of kind ``allocation``: implements the interface in ``isoform.train.kind``; importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from isoform.train.kinds.allocation.recipe import AllocationRecipe

if TYPE_CHECKING:  # torch is imported when training starts
    from isoform.train.data.samples import Dataset
    from isoform.train.kinds.allocation.run import AllocationRun

__all__ = ["TRAINER", "AllocationTrainer"]


class AllocationTrainer:
    """The ``Trainer`` of this kind."""

    recipe = AllocationRecipe

    def undivided(self, recipe: AllocationRecipe) -> str:
        """As ``Trainer.undivided``: nothing stands against it."""
        return ""

    def start(self, recipe: AllocationRecipe, datasets: Mapping[str, Dataset]) -> AllocationRun:
        """As ``Trainer.start``."""
        from isoform.train.kinds.allocation.run import AllocationRun

        return AllocationRun(recipe, datasets)

    def line(self, figures: Mapping[str, float]) -> str:
        """As ``Trainer.line``."""
        return f"loss {figures['loss']:.3f}  accuracy {figures['accuracy']:6.1%}  components {figures['active_share']:6.1%}"


TRAINER = AllocationTrainer()
