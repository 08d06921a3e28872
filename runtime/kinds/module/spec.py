"""Sizes of a network of kind ``module``: a body, and where each of its weights comes from.

    shared     the same for every signature: a tensor of the bundle
    private    in the signature's part ``private``, one weight after the other
    mixed      weights of equal shape form a group of G layers and K templates: W_ℓ = Σ_k a_ℓk θ_k, with a in the part ``mixture``
    changed    W = W₀ + U V, W₀ and V shared, of r rows, and U in the part ``delta``; of Hu et al. (2021, LoRA), where V is a user's own too

What is the same for everybody may also be a front: a complete ONNX graph before the body, from samples to the features that the body takes.
BN is in the parts ``bn.affine`` (γ, β) and ``bn.statistics`` (mean, variance), or shared. The logits layer is always the signature's.
Source of the mixture: Savarese and Maire (2019), of which Compositional Models is a special case; here coefficients are any numbers, so
that a network that was trained before is a mixture of its own layers.

Must never import torch, onnx or onnxruntime.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

from isoform.runtime.bodies.body import Body, checked_shapes
from isoform.runtime.errors import SpecError
from isoform.runtime.formats.metadata import members_of
from isoform.runtime.inputs import Input, is_whole

__all__ = ["ModuleSpec"]

FRONT = 1 << 28
"""Maximum size of a front in bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModuleSpec:
    """Sizes of one network of kind ``module``. Raises ``SpecError`` on a size out of range."""

    body: Body
    private: tuple[str, ...] = ()
    """Names of the private weights, in the body's order."""
    groups: tuple[tuple[str, ...], ...] = ()
    """Names of the mixed weights, group by group; each group has as many templates as layers."""
    deltas: tuple[str, ...] = ()
    """Names of the shared weights that have a low-rank change, two axes or more each, in the body's order."""
    rank: int = 0
    """r, rank of the changes; 0 if there are none."""
    samples: Input | None = None
    """What the front takes, which comes before the body; None without one."""
    front_size: int = 0
    """Bytes of the front's ONNX file."""
    kind: str = "module"

    def __post_init__(self) -> None:
        """Check that every weight has one source, and that groups have equal shapes."""
        if self.kind != "module":
            raise SpecError(f"kind is {self.kind!r}, but 'module' was expected")
        named = [*self.private, *(name for group in self.groups for name in group)]
        unknown = sorted({*map(str, named)} - set(self.body.weights))
        if unknown or len({*named}) != len(named):
            raise SpecError(
                f"private and mixed weights must be different weights of the body, but {unknown or 'one'} is not"
            )
        for group in self.groups:
            if len({self.body.weights[name] for name in group}) != 1:
                raise SpecError(f"the weights {', '.join(group)} are mixed, but have different shapes")
        self._check_deltas()
        if not is_whole(self.front_size, 0, FRONT) or bool(self.front_size) != (self.samples is not None):
            raise SpecError(
                f"front_size is {self.front_size!r}, but up to {FRONT} bytes were expected, and 0 without a front"
            )
        if self.samples is not None and self.samples.fits(self.body.input.largest):
            raise SpecError("the front's features have the shape of its samples, so they could not be told apart")
        checked_shapes({name: shape for name, shape in self.template_shapes.items() if name != "body"}, "templates")

    def _check_deltas(self) -> None:
        if not is_whole(self.rank, 0, 4096) or bool(self.rank) != bool(self.deltas):
            raise SpecError(
                f"rank is {self.rank!r} for {len(self.deltas)} changed weights, but 1 or more was expected, and 0 for none"
            )
        if wrong := [name for name in self.deltas if name not in self.shared or len(self.body.weights[name]) < 2]:
            raise SpecError(f"{wrong[0]!r} has a low-rank change, but that must be a shared weight of two axes or more")
        for name in self.deltas:
            rows, columns = self.body.weights[name][0], math.prod(self.body.weights[name][1:])
            if self.rank > min(rows, columns):
                raise SpecError(
                    f"rank is {self.rank}, but {name!r} is a matrix of {rows}×{columns}; choose less, or leave it out"
                )
        if len({*self.deltas}) != len(self.deltas):
            raise SpecError("a weight has two low-rank changes")

    @functools.cached_property
    def shared(self) -> tuple[str, ...]:
        """Names of the shared weights."""
        other = {*self.private, *(name for group in self.groups for name in group)}
        return tuple(name for name in self.body.weights if name not in other)

    @functools.cached_property
    def template_shapes(self) -> dict[str, tuple[int, ...]]:
        """As ``Spec.template_shapes``: the graph, the shared weights, the templates of each group, and BN if it is shared."""
        shapes: dict[str, tuple[int, ...]] = {"body": (self.body.size,)}
        if self.front_size:
            shapes["front"] = (self.front_size,)
        shapes |= {f"shared.{name}": self.body.weights[name] for name in self.shared}
        shapes |= {
            f"templates{number:02d}": (len(group), *self.body.weights[group[0]])
            for number, group in enumerate(self.groups)
        }
        shapes |= {f"down.{name}": (self.rank, math.prod(self.body.weights[name][1:])) for name in self.deltas}
        if self.body.norms and not self.body.private_norms:
            shapes |= dict.fromkeys(("bn.affine", "bn.statistics"), (2, self.body.channels))
        return shapes

    @property
    def bytewise(self) -> frozenset[str]:
        """As ``Spec.bytewise``: the graphs."""
        return frozenset({"body", "front"})

    @functools.cached_property
    def part_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """As ``Spec.part_shapes``."""
        shapes: dict[str, tuple[int | None, ...]] = {}
        if self.groups:
            shapes["mixture"] = (sum(len(group) ** 2 for group in self.groups),)
        if self.deltas:
            shapes["delta"] = (self.rank * sum(self.body.weights[name][0] for name in self.deltas),)
        if self.private:
            shapes["private"] = (self.body.numbers(self.private),)
        if self.body.norms and self.body.private_norms:
            shapes |= dict.fromkeys(("bn.affine", "bn.statistics"), (2, self.body.channels))
        return {**shapes, "logits.weight": (None, self.body.embedding), "logits.bias": (None,)}

    def required_of(self, task: str) -> frozenset[str]:
        """As ``Spec.required_of``: all parts."""
        return frozenset(self.part_shapes)

    def coefficients(self, flat: Any) -> list[Any]:
        """Cut the part ``mixture``, of numpy or torch, into one matrix (G, G) for each group; views."""
        found, start = [], 0
        for group in self.groups:
            size = len(group)
            found.append(flat[start : start + size * size].reshape(size, size))
            start += size * size
        return found

    def ups(self, flat: Any) -> dict[str, Any]:
        """Cut the part ``delta``, of numpy or torch, into U of each changed weight, (outputs, r); views."""
        found, start = {}, 0
        for name in self.deltas:
            rows = self.body.weights[name][0]
            found[name] = flat[start : start + rows * self.rank].reshape(rows, self.rank)
            start += rows * self.rank
        return found

    def input_of(self, task: str) -> Input:
        """As ``Spec.input_of``: the same for every task."""
        return self.body.input if self.samples is None else self.samples

    def sample_bytes(self, task: str, shape: tuple[int, ...]) -> int:
        """As ``Spec.sample_bytes``: a guess from the sample alone, since a graph says nothing of its inside."""
        # a first layer with 64 channels at a quarter of the pixels, and its output
        return 4 * max(32 * math.prod(shape), 8 * self.body.embedding)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; ``from_json`` is the inverse."""
        return {
            "kind": self.kind, "body": self.body.to_json(), "private": list(self.private), "groups": [list(group) for group in self.groups],
            **({"samples": self.samples.to_json(), "front_size": self.front_size} if self.samples else {}),
            **({"deltas": list(self.deltas), "rank": self.rank} if self.deltas else {}),
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: object) -> ModuleSpec:
        """Read what ``to_json`` returned. Raises ``SpecError`` if it is malformed or out of range."""
        fields = members_of(cls, value, "the network's description")
        samples = fields.pop("samples", None)
        groups, private, deltas = (fields.pop(name, ()) for name in ("groups", "private", "deltas"))
        if (
            not isinstance(private, tuple)
            or not isinstance(deltas, tuple)
            or not all(isinstance(name, str) for name in deltas)
            or not isinstance(groups, tuple)
            or not all(isinstance(group, list) and group for group in groups)
        ):
            raise SpecError("private is a list of names, as deltas is, and groups a list of lists of names")
        try:
            return cls(
                body=Body.from_json(fields.pop("body")),
                private=private,
                groups=tuple(map(tuple, groups)),
                deltas=deltas,
                samples=None if samples is None else Input.from_json(samples),
                **fields,
            )
        except TypeError as problem:
            raise SpecError(f"the network's description has a field of the wrong type: {problem}") from None
