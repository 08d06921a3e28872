"""The recipe of a mixture: sizes of the network, how layers choose their templates, and the optimiser."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.train.fields import between
from isoform.train.recipe import Recipe

__all__ = ["MixtureRecipe", "MixtureTable", "NetworkTable", "OptimizerTable"]

LEAST, MOST = 8, 64
"""Number of random directions, whatever the numbers of ``delta``: each takes the memory of a template where a ``delta`` is used."""
MEMORY = 64 << 20
"""Bytes that all of them may take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkTable:
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
    delta_numbers: int = 416
    """Numbers of a signature's ``delta``, a byte each in its file: the more, the more random directions there are besides the templates."""
    bn_directions: int = 32
    """Number of directions of BN's statistics that signatures can have coefficients of; 0 for none."""

    def spec(
        self, input_shape: tuple[int, int, int], *, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> NetworkSpec:
        """Make the network's description. Raises ``SpecError`` if no network can have these sizes."""
        sizes = dataclasses.asdict(self)
        random = sizes.pop("delta_numbers") // max(1, self.layers) - self.templates
        spec = NetworkSpec(input_shape=input_shape, mean=mean, std=std, random_directions=0, **sizes)
        most = min(MOST, MEMORY // (4 * spec.block_size))
        return dataclasses.replace(spec, random_directions=min(most, max(LEAST, random)))

    def __post_init__(self) -> None:
        """Check the range that no network's description has."""
        between(self, "delta_numbers", 1, 65536)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureTable:
    """How layers choose their templates, and how strongly each is driven towards a single one."""

    signature: Literal["learned", "sequential", "cyclic", "random", "progressive"] = "learned"
    """Learn the mixture weights, or fix them to a discrete pattern (``isoform.train.kinds.mixture.patterns``)."""
    entropy: float = 4.0
    """λ of the entropy regulariser at the end of its ramp; 0 leaves the mixture soft."""
    entropy_start: float = 0.05
    """Where the ramp starts, as a share of all steps."""
    entropy_end: float = 0.5
    """Where the ramp reaches λ, as a share of all steps; the remaining steps train nearly discrete layers."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        between(self, "entropy", 0, 1e4)
        between(self, "entropy_start", 0, 1)
        between(self, "entropy_end", self.entropy_start, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerTable:
    """AdamW with linear warm-up. Weights follow a half cosine to 0; ξ's logits keep their rate and have no weight decay."""

    lr: float = 6e-3
    mixture_lr_ratio: float = 20.0
    """Learning rate of ξ's logits over that of the weights; papers use 10 to 100."""
    weight_decay: float = 0.02
    """Applied to weights and to all of the templates; not to other biases, BN or ξ."""
    warmup_steps: int = 50
    bn_momentum: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        between(self, "lr", 1e-8, 10)
        between(self, "mixture_lr_ratio", 0, 1e4)
        between(self, "weight_decay", 0, 1)
        between(self, "warmup_steps", 1, 1e6)
        between(self, "bn_momentum", 1e-4, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureRecipe(Recipe):
    """A ``Recipe`` for isometric networks with mixture modules."""

    kind: ClassVar[str] = "mixture"

    network: NetworkTable = NetworkTable()
    mixture: MixtureTable = MixtureTable()
    optimizer: OptimizerTable = OptimizerTable()
