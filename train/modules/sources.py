"""Where each parameter of a wrapped module comes from: shared by all, a user's own, or mixed from the templates of its group."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from isoform.runtime.errors import SpecError

__all__ = ["KINDS", "Sources", "changed_weights", "layer_weights"]

KINDS = {
    "norm": "the affine map and the statistics of BN, and the affine map of all other normalisation",
    "bias": "every other bias",
}
"""What may be a user's own, by one word."""
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
MIXED = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)
"""Layers whose weights are mixed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """Names of parameters by their source; all others are shared."""

    private: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    """Names of mixed weights, group by group."""
    private_norms: bool
    """Whether BN is a user's own."""
    statistics: tuple[str, ...]
    """Names of BN's means."""

    @classmethod
    def of(
        cls, module: nn.Module, parameters: Mapping[str, Tensor], *, private: Sequence[str], kind: Literal["module", "mixture"]
    ) -> Sources:  # fmt: skip
        """Choose a source for every parameter.

        Args:
            module: The module.
            parameters: Its parameters by name.
            private: Words of ``KINDS``, and names or patterns of parameters, such as ``layer4.*.weight``.
            kind: ``mixture`` mixes the weights of linear, convolutional, recurrent and attention layers that have equal shapes.

        Raises:
            SpecError: If a pattern fits no parameter.
        """
        norms, own = _of(module, NORMS), set[str]()
        for pattern in private:
            if pattern == "norm":
                own |= norms
            elif pattern == "bias":
                batch = _of(module, (nn.modules.batchnorm._BatchNorm,))
                own |= {name for name in parameters if "bias" in name.rpartition(".")[2]} - norms - batch
            else:
                found = {name for name in parameters if fnmatch.fnmatchcase(name, pattern)}
                if not found:
                    raise SpecError(
                        f"private names {pattern!r}, but no parameter; expected {' or '.join(KINDS)}, or a name such as {next(iter(parameters))!r}"
                    )
                own |= found
        groups: dict[tuple[int, ...], list[str]] = {}
        for name in sorted(layer_weights(module), key=[*parameters].index) if kind == "mixture" else ():
            if parameters[name].dim() > 1 and name not in own:
                groups.setdefault(tuple(parameters[name].shape), []).append(name)
        return cls(
            private=tuple(name for name in parameters if name in own), groups=tuple(map(tuple, groups.values())), private_norms="norm" in private,
            statistics=tuple(name for name in parameters if name.endswith("running_mean")),
        )  # fmt: skip

    def changing(self, head: Sequence[str | None]) -> frozenset[str]:
        """Return the names of what differs between signatures, but for the logits layer ``head``."""
        mixed = [name for group in self.groups if len({*group} - {*head}) > 1 for name in group]
        norms = self.statistics if self.private_norms else ()
        return frozenset({*self.private, *mixed, *norms} - {*head})

    def without(self, head: Sequence[str | None], weights: Sequence[str]) -> Sources:
        """Leave out the logits layer, what is not among a body's weights, and groups of one layer."""

        def kept(names: Sequence[str]) -> tuple[str, ...]:
            return tuple(name for name in names if name in weights and name not in head)

        groups = tuple(group for group in map(kept, self.groups) if len(group) > 1)
        return dataclasses.replace(self, private=kept(self.private), groups=groups)


def layer_weights(module: nn.Module) -> set[str]:
    """Return the names of the parameters of all linear, convolutional, recurrent and attention layers."""
    return _of(module, MIXED)


def changed_weights(module: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    """Return the names of the weights of two axes or more that fit patterns. Raises ``SpecError`` if one fits none."""
    names = [name for name, value in module.named_parameters() if value.dim() > 1]
    found = set[str]()
    for pattern in patterns:
        fitting = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
        if not fitting:
            raise SpecError(
                f"delta names {pattern!r}, but no weight of two axes or more; expected a name or a pattern such as {names[0] if names else '*.weight'!r}"
            )
        found |= fitting
    return frozenset(found)


def _of(module: nn.Module, types: tuple[type[nn.Module], ...]) -> set[str]:
    """Return the names of the parameters of all layers of these types."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if isinstance(part, types)
        for name, _ in part.named_parameters(recurse=False)
    }
