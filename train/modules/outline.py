"""A module's outline: the body that torch exported, and where each of its parameters comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from isoform.runtime.arrays import Array
from isoform.runtime.bodies.body import Body
from isoform.runtime.errors import SpecError
from isoform.runtime.inputs import Input
from isoform.train.modules.body import body_from
from isoform.train.modules.export import exported, parameters_of
from isoform.train.modules.graph import drawn
from isoform.train.modules.sources import Sources

__all__ = ["Outline", "outlined"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outline:
    """What is known of a module's weights once it was exported."""

    body: Body
    file: bytes
    """The body's ONNX file."""
    sources: Sources
    head: tuple[str, str | None]
    """Names of the logits layer's parameters: weight, and bias or None."""


def outlined(
    module: nn.Module, example: Tensor, takes: Input, *, classes: Sequence[str], private: Sequence[str],
    kind: Literal["module", "mixture"] = "module", differing: Callable[[tuple[str, str | None]], Collection[str]] | None = None,
) -> Outline:  # fmt: skip
    """Export a module.

    Args:
        module: As for ``wrap``, checked.
        example: Samples, shape (n, …).
        takes: Describes them.
        classes: Names of the classes, one per logit.
        private: As for ``wrap``.
        kind: As for ``wrap``.
        differing: Given the names of the logits layer's weight and bias, returns names of other weights that differ between signatures.

    Raises:
        SpecError: If there is not one class per logit, or a pattern fits no parameter.
        CompileError: If the module cannot be exported.
    """
    parameters = parameters_of(module)
    model = exported(module, example if len(example) > 1 else torch.cat([example, example]), takes)
    values: Mapping[str, Array] = {name: value.detach().numpy() for name, value in parameters.items()}
    sources = Sources.of(module, parameters, private=private, kind=kind)

    def changing(head: tuple[str, str | None]) -> frozenset[str]:
        return sources.changing(head) | frozenset(differing(head) if differing else ())

    nodes = drawn(model, values, changing)
    sources = sources.without(nodes.head, nodes.weights)
    shapes = {name: value.shape for name, value in values.items()}
    body, file = body_from(nodes, takes, shapes, private_norms=sources.private_norms)
    rows = len(values[nodes.head[0]])
    if len(classes) != rows or len({*classes}) != rows:
        raise SpecError(f"classes has {len(classes)} names, but the module has {rows} logits; give each its own name")
    return Outline(body=body, file=file, sources=sources, head=nodes.head)
