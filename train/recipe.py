"""Recipes: how to train, as TOML read into frozen dataclasses.

A recipe says everything that decides the result: data, sizes, objective, optimiser, seed, threads. Here is what every kind's has;
a kind extends it by tables of its own (``kinds/<kind>/recipe.py``). ``kind = "…"`` at the top of the file says which; without it, it
is a ``mixture``. The resolved recipe (defaults filled in, flags applied) is stored in the bundle that it made, and names the
checkpoints that belong to it. ``isoform train NAME`` finds the recipes that are shipped in ``train/recipes``.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from isoform.runtime.arrays import digest_of
from isoform.runtime.errors import RecipeError, SignatureError
from isoform.runtime.formats.signature import check_name
from isoform.runtime.kind import DEFAULT
from isoform.train.data.recipe import DataRecipe, TaskRecipe
from isoform.train.fields import between, fields_of, read_table
from isoform.train.kind import TRAINERS, trainer_named

__all__ = ["DataRecipe", "Recipe", "TaskRecipe", "override_fields", "read_recipe", "recipe_names"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a training run, as far as all kinds have it."""

    kind: ClassVar[str]
    """The kind that it trains, by its name in ``TRAINERS``."""

    steps: int
    batch: int = 32
    """Samples per task and step."""
    seed: int = 0
    threads: int = 2
    """Processor threads; part of the recipe, because another number adds floats in another order."""
    data: DataRecipe = dataclasses.field(default_factory=DataRecipe)
    tasks: Mapping[str, TaskRecipe] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the ranges and the tasks' names."""
        between(self, "steps", 1, 1e8)
        between(self, "batch", 2, 65536)
        between(self, "seed", 0, 2**31)
        between(self, "threads", 1, 1024)
        if not self.tasks:
            raise RecipeError('the recipe has no task; add a table such as [tasks.plain] with data = "digits"')
        for name in self.tasks:
            try:
                check_name(name)
            except SignatureError as problem:
                raise RecipeError(str(problem)) from None

    def to_json(self) -> dict[str, Any]:
        """The resolved recipe as JSON types: the kind where it is not the default, what all kinds have, the kind's tables, the tasks."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        tasks = plain.pop("tasks")
        # A mixture's names no kind: digests of recipes, and so checkpoints and bundles, are what they were when it was the only one.
        named = {} if self.kind == DEFAULT else {"kind": self.kind}
        return {**named, **plain, "tasks": tasks}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
        """Read ``to_json``'s mapping, or what a TOML file holds: a recipe of the kind that it names.

        Raises:
            RecipeError: Naming the field that is unknown, missing, of the wrong type or out of range.
        """
        rest = dict(value)
        trainer = trainer_named(rest.pop("kind", DEFAULT), where=where)
        read: Recipe = read_table(trainer.recipe, rest, where)
        return read

    def digest(self) -> str:
        """sha256 of the resolved recipe, 64 hex digits."""
        return digest_of([json.dumps(self.to_json(), sort_keys=True).encode()])


def read_recipe(name: str, overrides: Mapping[str, str]) -> Recipe:
    """Read a recipe file, or a shipped recipe by name, and apply flags.

    Args:
        name: Path of a TOML file, or a name from ``recipe_names``.
        overrides: Dotted field → text as on the command line, such as ``{"network.layers": "4"}``.

    Raises:
        RecipeError: If there is no such recipe, it is not TOML, or a field is wrong.
    """
    path = Path(name)
    if name in recipe_names():
        text = (importlib.resources.files("isoform.train.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            reason = getattr(problem, "strerror", None) or "it is not UTF-8 text"
            raise RecipeError(
                f"recipe {name} cannot be read: {reason}; give a TOML file, or one of {', '.join(recipe_names())}"
            ) from None
    try:
        value = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        raise RecipeError(f"recipe {name} is not TOML: {problem}") from None
    for field, entry in overrides.items():
        *sections, last = field.split(".")
        place = value
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise RecipeError(f"recipe {name} has no table {'.'.join(sections)}, so {field} cannot be set")
        place[last] = _parsed(entry)
    return Recipe.from_json(value, where=f"recipe {name}")


def recipe_names() -> list[str]:
    """Names of the recipes that are shipped."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in importlib.resources.files("isoform.train.recipes").iterdir()
        if entry.name.endswith(".toml")
    )


def override_fields() -> list[str]:
    """Dotted names of every field that a flag may override, of all kinds, each once."""
    names: dict[str, None] = {}  # a set that keeps its order
    for kind in TRAINERS:
        for name, hint in fields_of(trainer_named(kind).recipe).items():
            if dataclasses.is_dataclass(hint):
                names |= {f"{name}.{inner}": None for inner in fields_of(hint)}
            elif name != "tasks":
                names[name] = None
    return list(names)


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
