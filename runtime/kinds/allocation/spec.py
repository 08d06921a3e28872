"""Sizes of a modular network, and names and shapes of all its parameters.

    samples → (x - mean) / std → [1×1 convolution to ``channels`` · GroupNorm · ReLU: the stem, shared by all tasks]
    → L modular layers: mean of the outputs of the components that the task uses [· GroupNorm · ReLU] [· average pool]
    → flatten = embedding → the task's logits layer

GroupNorm is in the network if ``norm_groups`` is not 0: after the stem, after every convolution inside a component, and after every
layer. Sizes that vary are the layers': each has its own components (``operations.py``), stride and pool.

Source: Gumbel-Matrix, figures 3 and 4, sections III and V, appendices A to C. Must never import torch, onnx or onnxruntime.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

from isoform.runtime.errors import SpecError
from isoform.runtime.formats.metadata import members_of
from isoform.runtime.inputs import Input, check_scaling, is_whole
from isoform.runtime.kinds.allocation.operations import Map, Operation, chained, norm_shapes

__all__ = ["SIZES", "Layer", "LayerSizes", "ModularSpec", "component_name", "layer_name", "operation_name"]

LAYERS, COMPONENTS, BITS = 64, 64, 512
"""Maximum numbers of layers, of components of one layer, and of both multiplied: a mask's name is a file's name."""
SIZES = {"channels": (1, 4096), "norm_groups": (0, 4096), "stride": (1, 8), "pool": (1, 8)}
"""Size → its range, both ends included."""
VALUES = 1 << 28
"""Maximum number of values of all weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSizes:
    """One modular layer as a recipe or a bundle describes it."""

    components: tuple[str, ...]
    """Texts of ``operations.py``, 1 to 64."""
    stride: int = 1
    """Stride of the last operation of every component, 1 to 8."""
    pool: int = 1
    """Side and stride of the average pool after the layer, 1 (none) to 8."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One modular layer with the shapes that it has in its network."""

    components: tuple[tuple[Operation, ...], ...]
    norm: bool
    """Whether GroupNorm and ReLU follow the mean of the components."""
    pool: int
    before: Map
    inside: Map
    """Feature maps of every component."""
    after: Map
    """Feature maps after the pool."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModularSpec:
    """Sizes of one modular network of kind ``allocation``. Raises ``SpecError`` on a size out of range."""

    input_shape: Map
    """Channels, height and width of one sample; a vector of d features is 1 × 1 × d."""
    layers: tuple[LayerSizes, ...]
    channels: int = 48
    """Feature maps of every convolution, 1 to 4096."""
    stem: bool = False
    """Whether a shared 1×1 convolution comes first."""
    padding: Literal["same", "valid"] = "same"
    norm_groups: int = 0
    """Groups of GroupNorm, a divisor of ``channels``; 0 for no norm."""
    combine: Literal["mean", "sum"] = "mean"
    """How the outputs of components are combined. The paper's networks average; its shared bottom adds (docs/reproductions.md)."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted per input channel; in the unit of the samples."""
    std: tuple[float, ...] = (1.0,)
    """Divided by, per input channel; above 0."""
    norm_eps: float = 1e-5
    """ε, added to GroupNorm's variance."""
    kind: str = "allocation"

    def __post_init__(self) -> None:
        """Check every field. The message names the one that is out of range."""
        if self.kind != "allocation":
            raise SpecError(f"kind is {self.kind!r}, but 'allocation' was expected")
        if len(self.input_shape) != 3 or not all(is_whole(size, 1, 65536) for size in self.input_shape):
            raise SpecError(f"input_shape is {list(self.input_shape)}, but 3 positive whole numbers were expected")
        if not is_whole(self.channels, *SIZES["channels"]):
            raise SpecError(f"channels is {self.channels!r}, but a whole number from 1 to 4096 was expected")
        if not is_whole(self.norm_groups, *SIZES["norm_groups"]) or (
            self.norm_groups and self.channels % self.norm_groups
        ):
            raise SpecError(
                f"norm_groups is {self.norm_groups!r}, but 0 or a divisor of the {self.channels} channels was expected"
            )
        if not isinstance(self.stem, bool):
            raise SpecError(f"stem is {self.stem!r}, but true or false was expected")
        for name, choices in (("padding", ("same", "valid")), ("combine", ("mean", "sum"))):
            if getattr(self, name) not in choices:
                raise SpecError(
                    f"{name} is {getattr(self, name)!r}, but {' or '.join(map(repr, choices))} was expected"
                )
        if not (isinstance(self.norm_eps, float) and 0 < self.norm_eps < 1):
            raise SpecError(f"norm_eps is {self.norm_eps!r}, but a number between 0 and 1 was expected")
        check_scaling(self.mean, self.std, self.input_shape[0])
        self._check_layers()

    def _check_layers(self) -> None:
        if not 1 <= len(self.layers) <= LAYERS:
            raise SpecError(f"the network has {len(self.layers)} modular layers, but 1 to {LAYERS} were expected")
        for number, layer in enumerate(self.layers):
            if not 1 <= len(layer.components) <= COMPONENTS:
                raise SpecError(
                    f"layer {number} has {len(layer.components)} components, but 1 to {COMPONENTS} were expected"
                )
            if not (is_whole(layer.stride, *SIZES["stride"]) and is_whole(layer.pool, *SIZES["pool"])):
                raise SpecError(
                    f"layer {number} has the stride {layer.stride!r} and the pool {layer.pool!r}, but 1 to 8 were expected"
                )
        if len(self.layers) * self.widest > BITS:
            raise SpecError(
                f"the network has {len(self.layers)} layers of up to {self.widest} components, but at most {BITS} allocations were expected"
            )
        # a bundle's JSON is untrusted: without a limit, a few bytes of it could ask for any amount of memory
        values = sum(math.prod(shape) for shape in self.template_shapes.values())
        if values > VALUES:
            raise SpecError(
                f"the components would have {values:,} values, but at most {VALUES:,} are supported; make them smaller"
            )

    @property
    def widest(self) -> int:
        """C, the largest number of components of a layer."""
        return max(len(layer.components) for layer in self.layers)

    @functools.cached_property
    def geometry(self) -> tuple[Layer, ...]:
        """The layers with all shapes. Raises ``SpecError`` if components do not fit."""
        before = (self.channels, *self.input_shape[1:]) if self.stem else self.input_shape
        found = []
        for number, sizes in enumerate(self.layers):
            try:
                layer = self._layer(sizes, before)
            except SpecError as problem:
                raise SpecError(f"layer {number}: {problem}") from None
            found.append(layer)
            before = layer.after
        return tuple(found)

    def _layer(self, sizes: LayerSizes, before: Map) -> Layer:
        made = functools.partial(
            chained, before=before, channels=self.channels, stride=sizes.stride, padding=self.padding, norm=bool(self.norm_groups)
        )  # fmt: skip
        components = tuple(made(text) for text in sizes.components)
        inside = components[0][-1].after
        for text, chain in zip(sizes.components, components, strict=True):
            if chain[-1].after != inside:
                raise SpecError(
                    f"component {text} writes {_by(chain[-1].after)}, but {sizes.components[0]} {_by(inside)}; all of a layer must write the same"
                )
        if min(inside[1:]) < sizes.pool:
            raise SpecError(f"the pool of {sizes.pool} pixels is larger than the {_by(inside)} of its components")
        after = (inside[0], inside[1] // sizes.pool, inside[2] // sizes.pool)
        # numbers of a fully connected component are not feature maps, whose groups could be normalised
        norm = bool(self.norm_groups) and inside[0] == self.channels
        return Layer(components=components, norm=norm, pool=sizes.pool, before=before, inside=inside, after=after)

    @property
    def embedding(self) -> int:
        """Width of the embedding, the input of a task's logits layer."""
        return math.prod(self.geometry[-1].after)

    @functools.cached_property
    def exists(self) -> tuple[tuple[bool, ...], ...]:
        """L rows of C: which places of a mask are components; the others are padding and always 0."""
        return tuple(tuple(place < len(layer.components) for place in range(self.widest)) for layer in self.layers)

    @property
    def template_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of all tensors in ``templates.safetensors``, such as ``layer00.component01.op0.weight``."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.stem:
            shapes |= {"stem.weight": (self.channels, self.input_shape[0], 1, 1), "stem.bias": (self.channels,)}
            if self.norm_groups:
                shapes |= {f"stem.{part}": shape for part, shape in norm_shapes(self.channels).items()}
        for number, layer in enumerate(self.geometry):
            for place, chain in enumerate(layer.components):
                for step, operation in enumerate(chain):
                    name = operation_name(number, place, step)
                    shapes |= {f"{name}.{part}": shape for part, shape in operation.shapes.items()}
            if layer.norm:
                shapes |= {f"{layer_name(number)}.{part}": shape for part, shape in norm_shapes(self.channels).items()}
        return shapes

    @property
    def bytewise(self) -> frozenset[str]:
        """As ``Spec.bytewise``: none."""
        return frozenset()

    @property
    def part_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Name → shape of every part that a signature may hold; None where the size is free."""
        return {
            "allocation": (len(self.layers), self.widest),
            "logits.weight": (None, self.embedding),
            "logits.bias": (None,),
        }

    def required_of(self, task: str) -> frozenset[str]:
        """As ``Spec.required_of``: all parts."""
        return frozenset(self.part_shapes)

    def input_of(self, task: str) -> Input:
        """As ``Spec.input_of``: the same for every task."""
        return Input(what="image", shape=self.input_shape)

    def sample_bytes(self, task: str, shape: tuple[int, ...]) -> int:
        """As ``Spec.sample_bytes``: the largest of the input, and of every layer's input, outputs of all components, and their insides."""
        return 4 * max(
            math.prod(self.input_shape),
            *(
                math.prod(layer.before)
                + sum(max(math.prod(operation.after) for operation in chain) for chain in layer.components)
                for layer in self.geometry
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; ``from_json`` is the inverse."""
        fields = dataclasses.asdict(self)
        layers = [{**layer, "components": list(layer["components"])} for layer in fields.pop("layers")]
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()},
            "layers": layers,
        }

    @classmethod
    def from_json(cls, value: object) -> ModularSpec:
        """Read what ``to_json`` returned.

        Raises:
            SpecError: If it is not a mapping, a field is unknown or missing, or a value has the wrong type or range.
        """
        fields = members_of(cls, value, "the network's description")
        entries = fields.pop("layers")
        if not isinstance(entries, tuple):
            raise SpecError(f"layers is a {type(entries).__name__}, but a list was expected")
        try:
            return cls(layers=tuple(_layer_from(entry, number) for number, entry in enumerate(entries)), **fields)
        except (TypeError, ValueError, OverflowError) as error:
            raise SpecError(f"the network's description has a field of the wrong type: {error}") from None


def layer_name(number: int) -> str:
    """Return the prefix of the names of a layer's weights."""
    return f"layer{number:02d}"


def component_name(layer: int, component: int) -> str:
    """Return the prefix of the names of a component's weights."""
    return f"{layer_name(layer)}.component{component:02d}"


def operation_name(layer: int, component: int, step: int) -> str:
    """Return the prefix of the names of an operation's weights."""
    return f"{component_name(layer, component)}.op{step}"


def _layer_from(value: object, number: int) -> LayerSizes:
    fields = members_of(LayerSizes, value, f"layer {number}")
    components = fields["components"]
    if not isinstance(components, tuple) or not all(isinstance(text, str) for text in components):
        raise SpecError(f"layer {number} has the components {components!r:.100}, but a list of texts was expected")
    return LayerSizes(**fields)


def _by(shape: Map) -> str:
    return "×".join(map(str, shape))
