"""Recipes: how to train, as TOML read into frozen dataclasses.

A recipe says everything that decides the result: data, sizes, objective, optimiser, seed, threads. The resolved recipe (defaults
filled in, flags applied) is stored in the bundle that it made, and names the checkpoints that belong to it.
``isoform train NAME`` finds the recipes that are shipped in ``train/recipes``.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from isoform.runtime.arrays import digest_of
from isoform.runtime.errors import RecipeError, SignatureError
from isoform.runtime.formats.signature import check_name
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = [
    "DataRecipe",
    "MixtureRecipe",
    "NetworkRecipe",
    "OptimizerRecipe",
    "Recipe",
    "TaskRecipe",
    "read_recipe",
    "recipe_names",
]


def _between(section: object, name: str, low: float, high: float) -> None:
    value = getattr(section, name)
    if not low <= value <= high:
        raise RecipeError(f"{name} is {value}, but {low:g} to {high:g} was expected")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRecipe:
    """One task: a data set seen through a domain."""

    data: Literal["digits", "idx", "usps", "folder"]
    """Where samples come from: embedded digits, IDX files (MNIST and kin), USPS files, or a folder of images."""
    path: str = ""
    """Folder of the files, below ``--data``; empty for that folder itself. ``digits`` needs none."""
    domain: str = "plain"
    """A transform of ``isoform.train.data.domains``."""
    limit: int = 0
    """At most so many training samples, drawn evenly over the classes; 0 for all."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _between(self, "limit", 0, 1e9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """What all samples are made into."""

    input_shape: tuple[int, int, int] = (1, 32, 32)
    """Channels, height, width; images of another size are resized."""
    test_fraction: float = 0.25
    """Share kept for testing, stratified by class, where a data set has no test split of its own."""
    split_seed: int = 0
    """Which samples those are; apart from ``seed``, so that seeds are compared on the same test samples."""
    shift: int = 2
    """Augmentation: each batch is moved by up to so many pixels both ways, edges repeated."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _between(self, "test_fraction", 0.01, 0.99)
        _between(self, "shift", 0, 64)
        _between(self, "split_seed", 0, 2**31)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkRecipe:
    """Sizes; see ``isoform.runtime.kinds.mixture.spec.NetworkSpec``."""

    adapter_kernel: tuple[int, int] = (4, 4)
    layers: int = 8
    templates: int = 4
    channels: int = 24
    expansion: int = 3
    kernel: int = 3
    se_ratio: float = 0.25
    head_channels: int = 72
    embedding: int = 256
    affine: Literal["layer", "task", "mixed"] = "layer"

    def spec(
        self, input_shape: tuple[int, int, int], *, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> NetworkSpec:
        """The network's description. Raises ``SpecError`` on sizes that no network can have."""
        return NetworkSpec(input_shape=input_shape, mean=mean, std=std, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureRecipe:
    """How layers choose their templates, and how hard they are pushed towards one each."""

    signature: Literal["learned", "sequential", "cyclic", "random", "progressive"] = "learned"
    """Learned mixture weights, or a fixed discrete pattern (``isoform.train.kinds.mixture.patterns``)."""
    entropy: float = 4.0
    """λ of the entropy regulariser at the end of its ramp; 0 leaves the mixture soft."""
    entropy_start: float = 0.05
    """Where the ramp starts, as a share of all steps."""
    entropy_end: float = 0.5
    """Where the ramp reaches λ, as a share of all steps; the rest of training is for nearly discrete layers."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _between(self, "entropy", 0, 1e4)
        _between(self, "entropy_start", 0, 1)
        _between(self, "entropy_end", self.entropy_start, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """AdamW: linear warm-up, then a half cosine to 0 for weights; ξ's logits keep their rate and have no weight decay."""

    lr: float = 6e-3
    mixture_lr_ratio: float = 20.0
    """ξ's learning rate over the weights'; papers use 10 to 100."""
    weight_decay: float = 0.02
    """On weights and on all of the templates; not on other biases, BN or ξ."""
    warmup_steps: int = 50
    bn_momentum: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        _between(self, "lr", 1e-8, 10)
        _between(self, "mixture_lr_ratio", 0, 1e4)
        _between(self, "weight_decay", 0, 1)
        _between(self, "warmup_steps", 1, 1e6)
        _between(self, "bn_momentum", 1e-4, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a training run."""

    steps: int
    batch: int = 32
    """Samples per task and step."""
    seed: int = 0
    threads: int = 2
    """Processor threads; part of the recipe, because another number adds floats in another order."""
    data: DataRecipe = DataRecipe()
    network: NetworkRecipe = NetworkRecipe()
    mixture: MixtureRecipe = MixtureRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    tasks: Mapping[str, TaskRecipe] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the ranges and the tasks' names."""
        _between(self, "steps", 1, 1e8)
        _between(self, "batch", 2, 65536)
        _between(self, "seed", 0, 2**31)
        _between(self, "threads", 1, 1024)
        if not self.tasks:
            raise RecipeError('the recipe has no task; add a table such as [tasks.plain] with data = "digits"')
        for name in self.tasks:
            try:
                check_name(name)
            except SignatureError as problem:
                raise RecipeError(str(problem)) from None

    def to_json(self) -> dict[str, Any]:
        """The resolved recipe as JSON types."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
        """Read ``to_json``'s mapping, or what a TOML file holds.

        Raises:
            RecipeError: Naming the field that is unknown, missing, of the wrong type or out of range.
        """
        read: Recipe = _build(cls, value, where)
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
    """Dotted names of every field that a flag may override."""
    names = []
    for name, hint in get_type_hints(Recipe).items():
        if dataclasses.is_dataclass(hint):
            names += [f"{name}.{inner.name}" for inner in dataclasses.fields(hint)]
        elif name != "tasks":
            names.append(name)
    return names


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _build(cls: Any, value: object, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where} is a {type(value).__name__}, but a table was expected")
    hints = get_type_hints(cls)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise RecipeError(f"{where} has an unknown field {unknown[0]!r}; it may have {', '.join(hints)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    missing = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and name not in value
    ]
    if missing:
        raise RecipeError(f"{where} lacks the field {missing[0]!r}")
    try:
        return cls(**{name: _converted(hints[name], entry, f"{where}, {name}") for name, entry in value.items()})
    except RecipeError as problem:
        raise RecipeError(str(problem) if str(problem).startswith(where) else f"{where}, {problem}") from None


def _converted(hint: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        expected = " or ".join(repr(a) for a in arguments)
    elif origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(arguments) and all(type(v) is int for v in value):
            return tuple(value)
        expected = f"{len(arguments)} whole numbers"
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {key: _build(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
        expected = "a table"
    elif hint is float and type(value) in (int, float) and abs(typing.cast(float, value)) < 1e300:
        return float(typing.cast(float, value))
    elif type(value) is hint:
        return value
    else:
        expected = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[hint]
    raise RecipeError(f"{where} is {repr(value)[:80]}, but {expected} was expected")
