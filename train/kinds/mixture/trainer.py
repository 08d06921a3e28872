"""The trainer of kind ``mixture``: implements the interface in ``isoform.train.kind``; importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from isoform.train.kinds.mixture.recipe import MixtureRecipe

if TYPE_CHECKING:  # torch is imported when training starts
    from isoform.train.data.samples import Dataset
    from isoform.train.kinds.mixture.run import MixtureRun

__all__ = ["TRAINER", "MixtureTrainer"]


class MixtureTrainer:
    """The ``Trainer`` of this kind."""

    recipe = MixtureRecipe

    def undivided(self, recipe: MixtureRecipe) -> str:
        """As ``Trainer.undivided``: the moments of a target are of a whole batch."""
        return "with adaptation" if recipe.adaptation is not None else ""

    def start(self, recipe: MixtureRecipe, datasets: Mapping[str, Dataset]) -> MixtureRun:
        """As ``Trainer.start``."""
        if recipe.adaptation is not None:
            from isoform.train.kinds.mixture.adaptation import AdaptationRun

            return AdaptationRun(recipe, datasets)
        from isoform.train.kinds.mixture.run import MixtureRun

        return MixtureRun(recipe, datasets)

    def line(self, figures: Mapping[str, float]) -> str:
        """As ``Trainer.line``."""
        return f"loss {figures['loss']:.3f}  accuracy {figures['accuracy']:6.1%}  max ξ {figures['mean_max_xi']:.3f}"


TRAINER = MixtureTrainer()
