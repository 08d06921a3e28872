"""A folder for any kind: the plain fold, and one gather into the plan's layout. Slow beside a kind's own, and right for every layout."""

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
    """What signatures have in common here."""

    fixed: Array
    nbytes: int = 0


class GatheredFold:
    """A ``Folder`` for any kind.

    Args:
        graph: Of a bundle.
        layout: The plan's.
    """

    pieces, shares = 0, None

    def __init__(self, graph: Graph, layout: Layout) -> None:
        self._graph, self._layout = graph, layout
        self._changing = [name for name in graph.weights if name not in graph.constants]
        self.size = self.moving = len(layout.gather)
        self._nothing = _Nothing(np.empty(0, dtype=np.float32))

    def group(self, parts: Mapping[str, Array]) -> _Nothing:  # noqa: ARG002 - there are no groups
        """Nothing."""
        return self._nothing

    def read(self, parts: Mapping[str, Array]) -> Mapping[str, Array]:
        """The parts as they are."""
        return parts

    def fill(self, read: Mapping[str, Array], group: _Nothing, out: Array) -> None:  # noqa: ARG002
        """Fold and lay out: as ``Folder.fill``."""
        folded = self._graph.fold(read)
        out[:] = self._layout.lay_out({name: folded[name] for name in self._changing})

    def keys(self, read: Mapping[str, Array]) -> Sequence[int] | None:  # noqa: ARG002
        """None: no signature is made of pieces."""
        return None

    def piece(self, group: _Nothing, place: int, key: int) -> Array:
        """Never called, because there are none."""
        raise AssertionError(group, place, key)
