"""Signatures as heat maps, side by side, to show which templates they share, and what a user's changed.

One panel per signature: rows are templates, columns are layers, the shade is ξ. Layers whose strongest template is the same in
all panels are underlined as shared. Next to a user's signature, a second panel shows the change from another: ochre for more, blue
for less, with the distance. Where no use of a template changed by half a percent, it names the parts that did instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.commands.figures.style import GOOD, blank, differences, heat_map, new_figure, styled

__all__ = ["Origin", "draw_signatures"]

COLUMNS = 4
"""Panels beside each other."""
SEEN = 0.005
"""Change of a template's use from which it is drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What a user's signature is compared with."""

    usage: Array
    """Its ``Kind.usage``, shape (L, K)."""
    name: str = "start"
    """What it is to the user: ``start`` or ``base``."""
    distance: float | None = None
    """Distance of the two; None for the mean over layers of half the differences' sum."""
    changed: Sequence[str] = ()
    """Names of the parts that differ."""


@styled
def draw_signatures(
    xis: Mapping[str, Any], *, origins: Mapping[str, Origin] | None = None, ordered: bool = False
) -> Any:
    """Draw which templates signatures use, side by side.

    Args:
        xis: Name → ``Kind.usage``, ξ of a mixture, shape (L, K); all of the same shape.
        origins: Name → the signature to compare with; the difference is drawn next to the signature.
        ordered: Whether templates are put in the order in which they are used first; else they are in that of their numbers.

    Returns:
        A matplotlib ``Figure``, not yet saved.
    """
    origins = origins or {}
    layers, templates = next(iter(xis.values())).shape
    order = list(range(templates))
    if ordered:
        used = dict.fromkeys(int(k) for xi in xis.values() for k in xi.argmax(axis=1))
        order = [*used, *(k for k in order if k not in used)]
    # a mixture is about its strongest template; a mask may have several of equal strength
    exclusive = all((xi.sum(axis=1) < 1 + 1e-6).all() for xi in xis.values())
    best = np.array([xi.argmax(axis=1)[:, None] if exclusive else xi >= 0.5 for xi in xis.values()])
    shared = (best == best[0]).all(axis=(0, 2))
    symbol = "ξ" if exclusive else "use"
    plain = [name for name in xis if name not in origins]
    rows = [*_rows(plain, COLUMNS), *_rows([name for name in xis if name in origins], COLUMNS // 2)]
    columns = max(len(row) * (2 if row[0] in origins else 1) for row in rows)
    # a row of panels with their title and axis; a column per layer, but room for the title
    size = 1.4 + columns * max(2.1, 0.6 + 0.24 * layers), 0.5 + len(rows) * (0.9 + 0.24 * templates)
    figure = new_figure(*size)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    changes = {name: xis[name] - origin.usage for name, origin in origins.items()}
    # a floor, so that rounding noise of an unchanged signature is not drawn in full colour
    reach = max([0.05, *(float(np.abs(change).max()) for change in changes.values())])
    bars: dict[str, Any] = {}
    for row, names in zip(axes, rows, strict=True):
        row[0].set_ylabel("template")
        places = iter(row)
        for name in names:
            axis = next(places)
            bars.setdefault(symbol, heat_map(axis, xis[name][:, order].T, aspect="auto"))
            axis.set_title(name, loc="left", parse_math=False)
            _mark(axis, order, np.flatnonzero(shared) if len(xis) > 1 else [], layers=layers)
            if name in origins:
                axis = next(places)
                if (image := _change(axis, name, changes[name][:, order].T, origins[name], reach=reach)) is not None:
                    bars[f"change of {symbol}"] = image
                    _mark(axis, order, [], layers=layers)
        for axis in places:
            axis.set_visible(False)
    compared = np.array([row[0] in origins for row in rows])
    for (label, image), where in zip(
        bars.items(), (~compared if not compared.all() else compared, compared), strict=False
    ):
        # of a bar for one row the length is the row's
        bar = figure.colorbar(
            image, ax=[*axes[where].ravel()], label=label, shrink=0.8 / max(1, where.sum()), aspect=12
        )
        bar.outline.set_visible(False)
    if len(xis) > 1:
        kinds = "template" if exclusive else "templates"
        figure.suptitle(f"{int(shared.sum())} of {layers} layers use the same {kinds} in every signature (green)")
    return figure


def _rows(names: Sequence[str], count: int) -> list[Sequence[str]]:
    return [names[start : start + count] for start in range(0, len(names), count)]


def _change(axis: Any, name: str, change: Array, origin: Origin, *, reach: float) -> Any:
    """Draw a change, or say what changed instead; return the image, if there is one."""
    gap = float(np.abs(change).sum(axis=0).mean() / 2) if origin.distance is None else origin.distance
    axis.set_title(f"{name} - its {origin.name}: {gap:.3f}", loc="left", parse_math=False)
    if np.abs(change).max() >= SEEN:
        return heat_map(axis, change, vmin=-reach, vmax=reach, cmap=differences(), aspect="auto")
    parts = "\n".join(origin.changed)
    if not parts:
        blank(axis, f"the same as its {origin.name}")
    elif all(name.startswith("bn.") for name in origin.changed):
        blank(axis, f"the templates of its {origin.name};\nonly normalisation changed:\n{parts}")
    else:
        blank(axis, f"the templates of its {origin.name},\nto {100 * SEEN:g} %; changed:\n{parts}")
    return None


def _mark(axis: Any, order: Sequence[int], shared: Iterable[int], *, layers: int) -> None:
    """Label a panel's layers and templates, and underline the shared layers."""
    bottom = len(order) - 0.5
    axis.set_ylim(bottom, -0.5)
    axis.set_xlabel("layer")
    axis.tick_params(axis="x", pad=6)  # below the line of a shared layer
    step = 1 if layers <= 16 else 2 if layers <= 32 else 8
    axis.set_xticks(range(0, layers, step), [str(i + 1) for i in range(0, layers, step)])
    down = 1 if len(order) <= 24 else 4
    axis.set_yticks(range(0, len(order), down), [str(k) for k in order[::down]])
    for column in shared:
        axis.plot(
            [column - 0.4, column + 0.4], [bottom + 0.08] * 2, color=GOOD, linewidth=3, clip_on=False, linestyle="-",
            solid_capstyle="butt",
        )  # fmt: skip
