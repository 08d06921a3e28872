"""The fallback ``Folder`` for any kind: the plain fold, then one gather into the plan's layout. Works for every layout, but slowly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kind import Graph
from isoform.runtime.layout import Layout

__all__ = ["GatheredFold"]


@dataclasses.dataclass(frozen=True)
class _Nothing:
    """An empty ``Group``: here signatures share nothing."""

    fixed: Array
    nbytes: int = 0


class GatheredFold:
    """A ``Folder`` for any kind.

    Args:
        graph: A graph of a bundle.
        layout: The layout of the graph's plan.
    """

    pieces, shares = 0, None

    def __init__(self, graph: Graph, layout: Layout) -> None:
        self._graph, self._layout = graph, layout
        # the plan keeps the constants: its layout is learned from the others only
        self._changing = [name for name in graph.weights if name not in graph.constants]
        self.size = self.moving = len(layout.gather)
        self._nothing = _Nothing(np.empty(0, dtype=np.float32))

    def group(self, parts: Mapping[str, Array]) -> _Nothing:  # noqa: ARG002 - there are no groups
        """Return the empty group."""
        return self._nothing

    def read(self, parts: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the parts unchanged."""
        return parts

    def fill(self, read: Mapping[str, Array], group: _Nothing, out: Array) -> None:  # noqa: ARG002
        """Implement ``Folder.fill``."""
        if not self._changing:  # nothing but the logits layer differs between signatures
            return
        folded = self._graph.fold(read)
        out[:] = self._layout.lay_out({name: folded[name] for name in self._changing})

    def keys(self, read: Mapping[str, Array]) -> Sequence[int] | None:  # noqa: ARG002
        """Return None: no signature is composed of pieces."""
        return None

    def piece(self, group: _Nothing, place: int, key: int) -> Array:
        """Never called, because ``keys`` returns None."""
        raise AssertionError(group, place, key)
