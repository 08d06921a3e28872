"""Recipes of networks in ``benchmarks/reproduce``, whose tasks are data sets in memory."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isoform.runtime.formats.bundle import Bundle
from isoform.train.data.samples import Dataset
from isoform.train.loop import train
from isoform.train.recipe import Recipe

__all__ = ["recipe_of", "trained_on"]

FOLDER = Path(__file__).resolve().parents[1] / "reproduce"


def recipe_of(name: str, tasks: list[str], changes: Mapping[str, Any]) -> Recipe:
    """Read a recipe, and change some of its fields.

    Args:
        name: Its file, without ``.toml``.
        tasks: Names of the tasks.
        changes: Dotted field → value.
    """
    value = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    # the format is not used: the samples are in memory
    value["tasks"] = {task: {"data": "folder"} for task in tasks}
    for field, entry in changes.items():
        *sections, last = field.split(".")
        place = value
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = entry
    return Recipe.from_json(value, where=name)


def trained_on(recipe: Recipe, datasets: Mapping[str, Dataset], *, device: str = "cpu") -> Bundle:
    """Train without keeping a checkpoint: a benchmark's runs are kept when they are done."""
    with tempfile.TemporaryDirectory(prefix="isoform-reproduce-") as folder:
        return train(recipe, datasets, checkpoint=Path(folder) / "checkpoint", checkpoint_seconds=1e9, device=device)
