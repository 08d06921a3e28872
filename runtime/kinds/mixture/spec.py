"""Sizes of the isometric network, and names and shapes of all its parameters.

One block (MobileNetV3's inverted residual, stride 1), with E = expansion · C and R = round(se_ratio · E):

    1×1 expand C→E · BN · h-swish → k×k depthwise · BN · h-swish → squeeze E→R · ReLU · excite R→E · hard-sigmoid · scale
    → 1×1 project E→C · BN → add the input

All BN channels of a network form one vector of length N = C + L·(2E + C) + H, in the order of the forward pass:
input adapter, then per layer (expand, depthwise, project), then output adapter.

Source: Compositional Models, section 4.1; MobileNetV3 for the block. Must never import torch, onnx or onnxruntime.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from isoform.runtime.errors import SpecError
from isoform.runtime.formats.metadata import members_of
from isoform.runtime.inputs import Input, check_scaling

__all__ = ["SIZES", "NetworkSpec"]

Affine = Literal["layer", "task", "mixed"]
SIZES = {
    "layers": (1, 256), "templates": (1, 256), "channels": (1, 4096), "expansion": (1, 16), "kernel": (1, 15),
    "head_channels": (1, 65536), "embedding": (1, 65536), "random_directions": (0, 1024), "bn_directions": (0, 256),
}  # fmt: skip
"""Size → its range, both ends included."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Sizes of one isometric network of kind ``mixture``. Raises ``SpecError`` on a size out of range."""

    input_shape: tuple[int, int, int]
    """Channels, height, width of one sample."""
    adapter_kernel: tuple[int, int]
    """Kernel and stride of the input adapter, height and width; they divide the input's height and width."""
    layers: int
    """L, the number of blocks, 1 to 256."""
    templates: int
    """K, the number of shared template blocks, 1 to 256."""
    channels: int = 24
    """C, the width of the residual stream."""
    expansion: int = 3
    """E / C."""
    kernel: int = 3
    """Side of the depthwise kernel; odd."""
    se_ratio: float = 0.25
    """R / E, the squeeze-excite bottleneck."""
    head_channels: int = 72
    """H, the width of the output adapter."""
    embedding: int = 256
    """Width of the embedding, the input of a task's logits layer."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted per input channel; in the unit of the samples."""
    std: tuple[float, ...] = (1.0,)
    """Divided by, per input channel; above 0."""
    bn_eps: float = 1e-3
    """ε, added to BN's variance."""
    affine: Affine = "layer"
    """Location of γ and β: per layer and shared, per layer and task, or mixed from the templates by ξ (adapters: shared)."""
    random_directions: int = 16
    """J, the number of random directions that ``delta`` has besides the templates, 0 to 1024 (``directions.py``)."""
    bn_directions: int = 0
    """D, the number of directions of BN's statistics that the bundle stores for ``bn.coefficients``, 0 to 256 (``normalisation.py``)."""
    kind: str = "mixture"
    """How layers are made from templates; this version reads only ``mixture``."""

    def __post_init__(self) -> None:
        """Check every field. The message names the one that is out of range."""
        if self.kind != "mixture":
            raise SpecError(
                f"kind is {self.kind!r}, but this version reads 'mixture'; use a newer isoform for other kinds"
            )
        for name, length in (("input_shape", 3), ("adapter_kernel", 2)):
            value = getattr(self, name)
            if len(value) != length or not all(isinstance(v, int) and 1 <= v <= 65536 for v in value):
                raise SpecError(f"{name} is {list(value)}, but {length} positive whole numbers were expected")
        for name, (low, high) in SIZES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise SpecError(f"{name} is {value!r}, but a whole number from {low} to {high} was expected")
        if self.kernel % 2 == 0:
            raise SpecError(
                f"kernel is {self.kernel}, but the depthwise kernel must be odd, so that a block keeps its input's size"
            )
        if not (0 < self.se_ratio <= 1):
            raise SpecError(f"se_ratio is {self.se_ratio!r}, but a number above 0 and up to 1 was expected")
        if not (0 < self.bn_eps < 1):
            raise SpecError(f"bn_eps is {self.bn_eps!r}, but a number between 0 and 1 was expected")
        if self.affine not in ("layer", "task", "mixed"):
            raise SpecError(f"affine is {self.affine!r}, but 'layer', 'task' or 'mixed' was expected")
        _, height, width = self.input_shape
        if height % self.adapter_kernel[0] or width % self.adapter_kernel[1]:
            raise SpecError(
                f"adapter_kernel {list(self.adapter_kernel)} does not divide the input's {height}×{width} pixels; choose a kernel that does, or pad the samples"
            )
        # a bundle's JSON is untrusted: without a limit, a few bytes of it could ask for any amount of memory; random directions are
        # in no file, so theirs is lower
        if self.random_directions * self.block_size > 1 << 27:
            raise SpecError(
                f"the random directions would have {self.random_directions * self.block_size:,} values, but at most {1 << 27:,} are supported; "
                "make random_directions smaller"
            )
        values = self.templates * self.block_size + 2 * self.bn_directions * self.bn_channels
        if values > 1 << 30:
            raise SpecError(
                f"the templates would have {values:,} values, but at most {1 << 30:,} are supported; make them smaller"
            )
        check_scaling(self.mean, self.std, self.input_shape[0])

    @property
    def expanded(self) -> int:
        """E, the inner width of a block."""
        return self.expansion * self.channels

    @property
    def squeezed(self) -> int:
        """R, the width of the squeeze-excite bottleneck, at least 1."""
        return max(1, round(self.se_ratio * self.expanded))

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the residual stream."""
        return self.input_shape[1] // self.adapter_kernel[0], self.input_shape[2] // self.adapter_kernel[1]

    @property
    def block_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every mixed tensor of one block, in canonical order."""
        c, e, r, k = self.channels, self.expanded, self.squeezed, self.kernel
        shapes: dict[str, tuple[int, ...]] = {
            "expand.weight": (e, c, 1, 1),
            "depthwise.weight": (e, 1, k, k),
            "squeeze.weight": (r, e, 1, 1),
            "squeeze.bias": (r,),
            "excite.weight": (e, r, 1, 1),
            "excite.bias": (e,),
            "project.weight": (c, e, 1, 1),
        }
        if self.affine == "mixed":
            shapes["bn.affine"] = (2, 2 * e + c)
        return shapes

    @property
    def block_size(self) -> int:
        """P, the number of values of one template."""
        return sum(math.prod(shape) for shape in self.block_shapes.values())

    @property
    def shared_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every tensor shared by all tasks and layers: adapters, embedding, and shared BN affine."""
        shapes: dict[str, tuple[int, ...]] = {
            "input_adapter.weight": (self.channels, self.input_shape[0], *self.adapter_kernel),
            "output_adapter.weight": (self.head_channels, self.channels, 1, 1),
            "embedding.weight": (self.embedding, self.head_channels),
            "embedding.bias": (self.embedding,),
        }
        if self.affine != "task":
            shapes["bn.affine"] = (2, self.bn_channels)
        return shapes

    @property
    def template_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of all tensors in ``templates.safetensors``: block tensors with a leading axis K, the shared ones, BN's directions."""
        blocks = {f"template.{name}": (self.templates, *shape) for name, shape in self.block_shapes.items()}
        count = self.bn_directions
        directions: dict[str, tuple[int, ...]] = {
            "bn.directions": (count, 2, self.bn_channels),
            "bn.direction_scales": (count,),
        }
        return {**blocks, **self.shared_shapes, **(directions if count else {})}

    @property
    def bytewise(self) -> frozenset[str]:
        """Names of ``template_shapes`` that are int8; the others are float32."""
        return frozenset({"bn.directions"} if self.bn_directions else ())

    @property
    def part_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Name → shape of every part that a signature may hold; None where the size is free."""
        coefficients = {"bn.coefficients": (self.bn_directions,)} if self.bn_directions else {}
        return {
            "mixture": (self.layers, self.templates),
            "delta": (self.layers, self.templates + self.random_directions),
            **coefficients,
            "bn.affine": (2, self.bn_channels),
            "bn.statistics": (2, self.bn_channels),
            "logits.weight": (None, self.embedding),
            "logits.bias": (None,),
        }

    def required_of(self, task: str) -> frozenset[str]:
        """As ``Spec.required_of``, the same for every task; ``delta`` and ``bn.coefficients`` are 0 without them, and γ and β come from the
        templates unless each task has its own.
        """
        own = {"bn.affine"} if self.affine == "task" else set()
        return frozenset({"mixture", "bn.statistics", "logits.weight", "logits.bias", *own})

    def input_of(self, task: str) -> Input:
        """As ``Spec.input_of``: images, or windows with one row."""
        return Input(what="image", shape=self.input_shape)

    def sample_bytes(self, task: str, shape: tuple[int, ...]) -> int:
        """As ``Spec.sample_bytes``: the input and the widest features that exist at the same time,
        4 · (input + pixels · max(C + 2E, C + H)).
        """
        # C stays for the addition while a depthwise convolution has its input and output, E each
        widest = self.channels + max(2 * self.expanded, self.head_channels)
        return 4 * (math.prod(self.input_shape) + math.prod(self.grid) * widest)

    @property
    def block_bn_channels(self) -> int:
        """B = 2E + C, the number of BN channels of one block."""
        return 2 * self.expanded + self.channels

    @property
    def bn_channels(self) -> int:
        """N, the number of BN channels of the whole network, including the adapters."""
        return self.channels + self.layers * self.block_bn_channels + self.head_channels

    @property
    def bn_slices(self) -> dict[str, slice]:
        """Name of each BN layer → its slice of the vector of N channels; names are ``layer00.expand`` and so on."""
        widths = [("input_adapter", self.channels)]
        for layer in range(self.layers):
            e, c = self.expanded, self.channels
            widths += [
                (f"layer{layer:02d}.{part}", width) for part, width in (("expand", e), ("depthwise", e), ("project", c))
            ]
        widths.append(("output_adapter", self.head_channels))
        slices, start = {}, 0
        for name, width in widths:
            slices[name] = slice(start, start + width)
            start += width
        return slices

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; ``from_json`` is the inverse."""
        # as before these fields were there: digests of such bundles and their signatures stay valid
        usual = {"random_directions": 16, "bn_directions": 0}
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in usual or v != usual[k]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_json(cls, value: object) -> NetworkSpec:
        """Read what ``to_json`` returned.

        Raises:
            SpecError: If it is not a mapping, a field is unknown or missing, or a value has the wrong type or range.
        """
        plain = members_of(cls, value, "the network's description")
        try:
            return cls(**plain)
        except (TypeError, OverflowError) as error:
            raise SpecError(f"the network's description has a field of the wrong type: {error}") from None
