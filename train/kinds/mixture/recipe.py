"""The recipe of a mixture: sizes of the network, how layers choose their templates, and the optimiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from isoform.runtime.arrays import digest_of
from isoform.runtime.errors import RecipeError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.spec import SIZES, NetworkSpec
from isoform.train.fields import Between, Table
from isoform.train.recipe import Recipe

__all__ = ["AdaptationTable", "MixtureRecipe", "MixtureTable", "NetworkTable", "OptimizerTable", "StartTable"]

TRAINS = ("mixture", "bn", "head", "templates")
"""What training from a bundle can change."""
LEAST, MOST = 8, 64
"""Number of random directions, whatever the numbers of ``delta``: each takes the memory of a template where a ``delta`` is used."""
MEMORY = 64 << 20
"""Bytes that all of them may take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkTable(Table):
    """Sizes of the network: an input adapter, blocks on a grid of one size, an output adapter, an embedding, and a logits layer per task."""

    adapter_kernel: Annotated[tuple[int, int], Between(1, 65536)] = (4, 4)
    """Kernel and stride of the input adapter, height and width; they divide those of ``data.input_shape``, and the quotients are the grid that all
    layers compute on."""
    layers: Annotated[int, Between(*SIZES["layers"])] = 8
    """L, the number of blocks, one after the other."""
    templates: Annotated[int, Between(*SIZES["templates"])] = 4
    """K, the number of template blocks that layers and tasks share."""
    channels: Annotated[int, Between(*SIZES["channels"])] = 24
    """C, the channels between blocks. ONNX Runtime computes in groups of 8 (16 with AVX-512), so multiples of 8 cost least."""
    expansion: Annotated[int, Between(*SIZES["expansion"])] = 3
    """E / C: channels inside a block over those between blocks."""
    kernel: Annotated[int, Between(*SIZES["kernel"])] = 3
    """Side of the depthwise kernel; odd."""
    se_ratio: Annotated[float, Between(0, 1, above=True)] = 0.25
    """R / E: channels of the squeeze-and-excite bottleneck over those inside a block."""
    head_channels: Annotated[int, Between(*SIZES["head_channels"])] = 72
    """H, the channels of the output adapter, which is averaged over the grid."""
    embedding: Annotated[int, Between(*SIZES["embedding"])] = 256
    """Width of the embedding, the input of a task's logits layer. A signature has a row of it per class."""
    affine: Literal["layer", "task", "mixed"] = "layer"
    """Where BN's γ and β are: per layer and shared, per layer and task, or mixed from the templates like the weights."""
    delta_numbers: Annotated[int, Between(1, 65536)] = 416
    """Numbers of a signature's ``delta``, a byte each in its file: the more, the more random directions there are besides the templates."""
    bn_directions: Annotated[int, Between(*SIZES["bn_directions"])] = 32
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureTable(Table):
    """How layers choose their templates, and how strongly each is driven towards a single one."""

    signature: Literal["learned", "discrete", "free", "sequential", "cyclic", "random", "progressive"] = "learned"
    """Learn the mixture weights ξ as a softmax, of which ``discrete`` uses only the largest in every layer, or without a constraint (``free``). Or fix
    them: layers use templates in runs of equal length (``sequential``), in turn (``cyclic``), at random, or in runs that grow (``progressive``)."""
    initial: Literal["random", "sequential", "cyclic", "progressive"] = "random"
    """What a learned ξ starts from: logits near 0, or a lead of 2 for each layer's template in such a pattern. ``free`` starts from the pattern itself,
    by default the sequential one."""
    temperature: Annotated[float, Between(0.001, 1000)] = 1.0
    """Temperature of the softmax at the first step."""
    temperature_end: Annotated[float, Between(0.001, 1000)] = 1.0
    """Temperature at the last step; it falls by the same factor in every step. Below 1 it sharpens ξ without a regulariser."""
    entropy: Annotated[float, Between(0, 1e4)] = 4.0
    """λ of the entropy regulariser at the end of its ramp; 0 leaves the mixture soft."""
    entropy_start: Annotated[float, Between(0, 1)] = 0.05
    """Where the ramp starts, as a share of all steps."""
    entropy_end: Annotated[float, Between("entropy_start", 1)] = 0.5
    """Where the ramp reaches λ, as a share of all steps; the remaining steps train nearly discrete layers."""
    attraction: Annotated[float, Between(0, 1e4)] = 0.0
    """λ of the regulariser that attracts templates to the mixtures they contribute to, at the end of its ramp; of softmax mixtures alone."""
    attraction_start: Annotated[float, Between(0, 1)] = 0.4
    """Where its ramp starts, as a share of all steps; from the beginning it would make all templates alike."""
    attraction_end: Annotated[float, Between("attraction_start", 1)] = 1.0
    """Where its ramp reaches λ, as a share of all steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartTable(Table):
    """A bundle whose templates new tasks start from. Its network is used, so a recipe with this table has no table ``network``."""

    bundle: str = ""
    """Folder of the bundle, from where the command runs."""
    signature: str = ""
    """The task of that bundle whose signature the new tasks start from, with its BN statistics; empty for its only task. Logits layers start from it if
    the classes have the same names."""
    random: bool = False
    """Whether mixture weights start near equal ones instead, as those of a new network."""
    trains: tuple[str, ...] = ("mixture", "bn", "head")
    """What is trained: ``mixture``, ``bn`` (γ and β, of each task its own), ``head`` (logits layers), ``templates`` (all that tasks share; the signatures
    fit the bundle that they started from only without it). BN's statistics are each task's own, unless the logits layers alone are trained."""
    digest: str = ""
    """SHA-256 of the templates and of the signature, which training fills in; with it, another bundle is refused."""

    def __post_init__(self) -> None:
        """Check what is trained."""
        super().__post_init__()
        if not self.bundle:
            raise RecipeError("start has no bundle, but the folder of one was expected")
        if not self.trains or not {*self.trains} <= {*TRAINS} or len({*self.trains}) < len(self.trains):
            raise RecipeError(
                f"start.trains is {list(self.trains)}, but one or more of {', '.join(TRAINS)} were expected, each once"
            )
        if self.random and "mixture" not in self.trains:
            raise RecipeError(
                "start.random is true, but start.trains has no 'mixture'; random mixture weights have to be trained"
            )

    def source(self, bundle: Bundle) -> Signature:
        """Return the signature to start from. Raises ``RecipeError`` if none of several tasks is named, ``BundleError`` if there is no such task."""
        if not self.signature and len(bundle.signatures) > 1:
            raise RecipeError(
                f"{self.bundle} has {len(bundle.signatures)} tasks; choose one with start.signature: {', '.join(bundle.signatures)}"
            )
        return bundle.base(self.signature or next(iter(bundle.signatures)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationTable(Table):
    """A task without labels, the target: of all that is trained only its mixture weights are its own, and the other tasks' samples show what its features
    should look like. All tasks have the same classes, and one logits layer.
    """

    target: str = ""
    """The task whose training labels are not used. Its samples are read and split as those of every task, so its files have to say some label of each
    class."""
    method: Literal["adversarial", "moments", "information"] = "adversarial"
    """What the target's mixture weights minimise: how well a discriminator tells its features from the sources' (``adversarial``, ADDA), the distance of
    mean and mean square, and the difference between two logits layers (``moments``, M3SDA), or the entropy of its answers less that of their mean
    (``information``)."""
    begin: Annotated[float, Between(0, 1)] = 0.5
    """Share of the steps before it begins; until then the target has the mean of the other tasks' mixture logits. 1 for never."""
    lr: Annotated[float, Between(1e-8, 10)] = 0.02
    """Largest learning rate of the target's mixture logits; it follows half a cosine to 0 from where the adaptation begins."""
    weight: Annotated[float, Between(0, 1e4)] = 1.0
    """Weight of the target's loss, beside the entropy regulariser of its mixture weights."""
    hidden: Annotated[int, Between(1, 65536)] = 500
    """Width of the discriminator's two hidden layers."""
    discriminator_lr: Annotated[float, Between(1e-8, 10)] = 1e-3
    """Largest learning rate of the discriminator."""

    def __post_init__(self) -> None:
        """Check that there is a target."""
        super().__post_init__()
        if not self.target:
            raise RecipeError("adaptation has no target, but the name of a task was expected")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerTable(Table):
    """AdamW with linear warm-up. Weights follow a half cosine to 0; ξ's logits keep their rate and have no weight decay."""

    lr: Annotated[float, Between(1e-8, 10)] = 6e-3
    """Largest learning rate of the weights, after the warm-up."""
    mixture_lr_ratio: Annotated[float, Between(0, 1e4)] = 20.0
    """Learning rate of ξ's logits, or of free coefficients, over that of the weights; papers use 10 to 100. The logits' rate does not fall."""
    weight_decay: Annotated[float, Between(0, 1)] = 0.02
    """Weight decay of weights and all of the templates; not of other biases, BN or ξ."""
    warmup_steps: Annotated[int, Between(1, 1e6)] = 50
    """Steps in which the learning rate rises from 0."""
    bn_momentum: Annotated[float, Between(1e-4, 1)] = 0.1
    """Share of a batch's mean and variance in BN's running statistics."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureRecipe(Recipe):
    """A ``Recipe`` for isometric networks with mixture modules."""

    kind: ClassVar[str] = "mixture"

    network: NetworkTable = NetworkTable()
    """Sizes of the network."""
    mixture: MixtureTable = MixtureTable()
    """How layers choose their templates."""
    optimizer: OptimizerTable = OptimizerTable()
    """The optimiser."""
    start: StartTable | None = None
    """Templates that exist, instead of new ones."""
    adaptation: AdaptationTable | None = None
    """A task without labels."""

    def __post_init__(self) -> None:
        """Check that what the bundle to start from says is not said again."""
        super().__post_init__()
        if self.adaptation is not None:
            self._check_adaptation(self.adaptation)
        if self.start is None:
            return
        table, usual = self.mixture, MixtureTable()
        names = ["signature", "initial", "temperature", "temperature_end"] if "mixture" not in self.start.trains else []
        if not self.start.random:
            names.append("initial")
        for name in names:
            if getattr(table, name) != getattr(usual, name):
                raise RecipeError(
                    f"mixture.{name} is {getattr(table, name)!r}, but mixture weights start from those of start.signature"
                    f"{'' if 'mixture' in self.start.trains else ' and are not trained'}; leave it out"
                )
        if table.signature not in ("learned", "discrete", "free"):
            raise RecipeError(
                f"mixture.signature is {table.signature!r}, but with start it is learned, discrete or free"
            )

    def _check_adaptation(self, table: AdaptationTable) -> None:
        """Check that a target can be adapted. Raises ``RecipeError``."""
        if table.target not in self.tasks or len(self.tasks) < 2:
            raise RecipeError(
                f"adaptation.target is {table.target!r}, but one of two or more tasks was expected: {', '.join(self.tasks)}"
            )
        for given, what, why in (
            (self.start is not None, "a table start", "the sources' templates are trained with it"),
            (self.network.affine == "task", "network.affine 'task'", "nothing would train γ and β of the target"),
            (
                self.validation is not None,
                "a table validation",
                "the best state would be chosen by the target's labels",
            ),
            (
                self.data.augment is not None and self.data.augment.mixup > 0,
                "data.augment.mixup",
                "it would mix the target's labels",
            ),
            (self.accumulate > 1, "accumulate", "moments are of a whole batch"),
        ):
            if given:
                raise RecipeError(f"adaptation goes without {what}, because {why}; leave it out")

    @classmethod
    def check_given(cls, value: Mapping[str, Any]) -> None:
        """As ``Recipe.check_given``. Raises ``RecipeError`` if there is a network beside a bundle to start from."""
        if "start" in value and "network" in value:
            raise RecipeError("start has a network, that of its bundle; leave out the table network")

    def pinned(self) -> Self:
        """As ``Recipe.pinned``: the digest of the bundle that training starts from. Raises ``RecipeError`` if it is another one than the recipe says."""
        if self.start is None:
            return self
        bundle = Bundle.load(self.start.bundle, with_compiled=False)
        signature = self.start.source(bundle)
        found = digest_of([bundle.digest.encode(), signature.digest.encode()])
        if self.start.digest not in ("", found):
            raise RecipeError(
                f"start.digest is {self.start.digest[:12]}…, but {self.start.bundle} has {found[:12]}…; this is another bundle"
            )
        return dataclasses.replace(self, start=dataclasses.replace(self.start, digest=found))

    def to_json(self) -> dict[str, Any]:
        """As ``Recipe.to_json``: fields of ``mixture`` that earlier versions did not have are left out at their defaults."""
        plain, usual = super().to_json(), dataclasses.asdict(MixtureTable())
        for name in ("initial", "temperature", "temperature_end", "attraction", "attraction_start", "attraction_end"):
            if plain["mixture"][name] == usual[name]:
                del plain["mixture"][name]
        del plain["network" if self.start is not None else "start"]
        if self.adaptation is None:
            del plain["adaptation"]
        return plain
