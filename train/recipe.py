"""Recipes: the description of a training run, TOML read into frozen dataclasses.

A recipe holds everything that decides the result: data, sizes, objective, optimiser, seed, threads. This module has the fields that all
kinds share; a kind extends them by tables of its own (``kinds/<kind>/recipe.py``). ``kind = "…"`` at the top of the file names the kind;
the default is ``mixture``. The resolved recipe (defaults filled in, flags applied) is stored in the bundle, and its digest is part of a
checkpoint's identity. ``isoform train NAME`` finds the recipes that are shipped in ``train/recipes``.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import itertools
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from isoform.runtime.arrays import digest_of
from isoform.runtime.errors import RecipeError, SignatureError
from isoform.runtime.formats.signature import check_name
from isoform.runtime.kind import DEFAULT
from isoform.train.data.recipe import DataRecipe, TaskRecipe
from isoform.train.fields import Between, Table, fields_of, read_table, table_of
from isoform.train.kind import TRAINERS, trainer_named

__all__ = [
    "DataRecipe", "Recipe", "TaskRecipe", "ValidationTable", "about_recipe", "override_fields", "read_recipe", "recipe_names", "recipe_text",
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationTable(Table):
    """Measuring during training, on samples that ``data.validation_fraction`` holds out of it."""

    evaluations: Annotated[int, Between(1, 1e6)] = 20
    """How often, at equal distances; the last time after the last step."""
    patience: Annotated[int, Between(0, 1e6)] = 0
    """Stop when so many evaluations were no better than the best one; 0 for never."""
    keep: Literal["best", "last"] = "best"
    """Which state becomes the bundle."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Table):
    """The fields that all kinds share of what decides the result of a training run."""

    kind: ClassVar[str]
    """Name of the kind in ``TRAINERS``."""

    steps: Annotated[int, Between(0, 1e8)] = 0
    """Steps of training; in each, every task has a batch. 0 if ``epochs`` says how many."""
    epochs: Annotated[float, Between(0, 1e6)] = 0.0
    """How often the largest task's samples are seen, if ``steps`` is 0."""
    batch: Annotated[int, Between(2, 65536)] = 32
    """Samples per task and step, or of each part of one."""
    accumulate: Annotated[int, Between(1, 1024)] = 1
    """Parts of a step, whose gradients are averaged: a batch so many times as large, in the memory of one. BN sees each part by itself."""
    seed: Annotated[int, Between(0, 2**31)] = 0
    """Seed of the weights at the start, the order of the samples, and everything else that is drawn in training."""
    threads: Annotated[int, Between(0, 1024)] = 0
    """Processor threads; 0 for as many as there are processors, at most 8. With another number floats are added in another order, and the last
    bits differ."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numbers of a training step: ``bf16`` multiplies in bfloat16 and adds in float32, which is faster on GPUs. Answers are always in float32."""
    validation: ValidationTable | None = None
    """Measuring during training, to keep the best state or to stop early."""
    data: DataRecipe = dataclasses.field(default_factory=DataRecipe)
    """Shape, split and augmentation of all samples."""
    tasks: Mapping[str, TaskRecipe] = dataclasses.field(default_factory=dict)
    """The tasks by name, at least one."""

    def __post_init__(self) -> None:
        """Check the ranges and the tasks' names."""
        super().__post_init__()
        if not (self.steps or self.epochs):
            raise RecipeError("steps is 0, but 1 to 100,000,000 was expected; or say how many epochs")
        if self.steps and self.epochs:
            raise RecipeError(f"steps is {self.steps} and epochs {self.epochs:g}, but one of the two was expected")
        if not self.tasks:
            raise RecipeError('the recipe has no task; add a table such as [tasks.plain] with data = "digits"')
        for name in self.tasks:
            try:
                check_name(name)
            except SignatureError as problem:
                raise RecipeError(str(problem)) from None

    def to_json(self) -> dict[str, Any]:
        """Return the resolved recipe as JSON types: the kind if it is not the default, the common fields, the kind's tables, the tasks."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        tasks = plain.pop("tasks")
        # What did not exist in earlier versions is left out where it changes nothing, so that digests of recipes, and with them
        # checkpoints, stay valid.
        if not plain["data"]["validation_fraction"]:
            del plain["data"]["validation_fraction"]
        for field, nothing in (("epochs", 0.0), ("accumulate", 1), ("precision", "fp32"), ("validation", None)):
            if plain[field] == nothing:
                del plain[field]
        for field, default in (("split", "auto"), ("columns", []), ("stride", 0), ("sound", None), ("augment", None)):
            if plain["data"][field] == default:
                del plain["data"][field]
        named = {} if self.kind == DEFAULT else {"kind": self.kind}
        return {**named, **plain, "tasks": tasks}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
        """Read the mapping of ``to_json`` or of a TOML file as a recipe of the kind that it names.

        Raises:
            RecipeError: If a field is unknown, missing, of the wrong type or out of range; the message names it.
        """
        rest = dict(value)
        trainer = trainer_named(rest.pop("kind", DEFAULT), where=where)
        try:
            trainer.recipe.check_given(rest)
        except RecipeError as problem:
            raise RecipeError(f"{where}, {problem}") from None
        read: Recipe = read_table(trainer.recipe, rest, where)
        return read

    @classmethod
    def of_bundle(cls, value: Mapping[str, Any], *, where: str) -> Recipe:
        """Read the recipe that a bundle was trained by, perhaps with an earlier version; arguments and errors as for ``from_json``."""
        trainer = trainer_named(value.get("kind", DEFAULT), where=where)
        return cls.from_json(trainer.recipe.upgraded(dict(value)), where=where)

    @classmethod
    def check_given(cls, value: Mapping[str, Any]) -> None:
        """Check which tables are there at all. Raises ``RecipeError`` if two of them exclude each other."""

    @classmethod
    def upgraded(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a bundle of an earlier version as those of this one."""
        # the steps that the epochs took stood beside them
        return {name: entry for name, entry in value.items() if name != "epochs" or not value.get("steps")}

    def digest(self) -> str:
        """Compute the sha256 of the resolved recipe, 64 hex digits."""
        return digest_of([json.dumps(self.to_json(), sort_keys=True).encode()])

    def with_steps(self, samples: int) -> Self:
        """Return the recipe with the steps of its epochs, given the number of the largest task's training samples; itself if it has steps."""
        if self.steps:
            return self
        steps = math.ceil(self.epochs * samples / (self.batch * self.accumulate))
        return dataclasses.replace(self, steps=max(1, steps), epochs=0.0)

    def pinned(self) -> Self:
        """Return the recipe with the digests of the files that it reads besides the samples. Raises ``BundleError`` if one cannot be read."""
        return self

    def run_digest(self) -> str:
        """Compute the sha256 of what an interrupted run must agree in to be resumed: all but the number of threads."""
        return digest_of([json.dumps({**self.to_json(), "threads": 0}, sort_keys=True).encode()])


def read_recipe(name: str, overrides: Mapping[str, str]) -> Recipe:
    """Read a recipe file, or a shipped recipe by name, and apply overrides.

    Args:
        name: Path of a TOML file, or a name from ``recipe_names``.
        overrides: Dotted field → text from the command line, such as ``{"network.layers": "4"}``.

    Raises:
        RecipeError: If the recipe does not exist, is not TOML, or has a wrong field.
    """
    path = Path(name)
    if name in recipe_names():
        text = recipe_text(name)
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
    except (ValueError, RecursionError) as problem:  # RecursionError: brackets nested a thousand deep
        raise RecipeError(f"recipe {name} is not TOML: {problem}") from None
    # a flag of one of them takes the place of the other in the file
    for flag, other in (("steps", "epochs"), ("epochs", "steps")):
        if flag in overrides and other not in overrides:
            value.pop(other, None)
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
    """Return the names of the shipped recipes."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in importlib.resources.files("isoform.train.recipes").iterdir()
        if entry.name.endswith(".toml")
    )


def recipe_text(name: str) -> str:
    """Return the file of a shipped recipe. Raises ``RecipeError`` if there is none of that name."""
    if name not in recipe_names():
        raise RecipeError(f"no recipe {name!r} is shipped; choose one of {', '.join(recipe_names())}")
    return (importlib.resources.files("isoform.train.recipes") / f"{name}.toml").read_text(encoding="utf-8")


def about_recipe(name: str) -> str:
    """Return what a shipped recipe says of itself: the first paragraph of the comment at its top, after the line with the command."""
    lines = itertools.takewhile(lambda line: line.startswith("# "), recipe_text(name).splitlines()[1:])
    return " ".join(line.removeprefix("# ").strip() for line in lines)


def override_fields() -> list[str]:
    """Return the dotted names of all fields that a flag may override, of all kinds, each once."""
    names: dict[str, None] = {}  # an ordered set: --help lists fields in the order of the dataclasses
    for kind in TRAINERS:
        names |= dict.fromkeys(_dotted(trainer_named(kind).recipe))
    return list(names)


def _dotted(table: Any) -> list[str]:
    """Return the names of a table's fields, those of tables inside it with a dot; without tables that have names of their own."""
    names: list[str] = []
    for name, hint in fields_of(table).items():
        if (inner := table_of(hint)) is not None:
            names += [f"{name}.{field}" for field in _dotted(inner)]
        elif name != "tasks":
            names.append(name)
    return names


def _parsed(text: str) -> Any:
    # As TOML, so that 4, 0.5 and [1, 28, 28] keep their types; anything else is a text, which need not be quoted.
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
