"""Networks of several tasks as paths through their templates, to show where they share layers (Compositional Models, figure 2).

A column for each layer, a dot for each template that some task uses there, and a line for each task through its dots. Layers in which all tasks
use the same templates are framed. Requires matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.commands.figures.style import GOOD, LINE, LINES, STROKES, legend_beside, new_figure, styled
from isoform.runtime.errors import UsageError

__all__ = ["draw_graph"]

MOST = len(LINES) * len(STROKES)
"""Number of lines that can be told apart."""
USED = 0.5
"""Share from which a component of a mask counts as used."""


@styled
def draw_graph(xis: Mapping[str, Array], *, several: bool = False) -> Any:
    """Draw the paths of tasks through templates.

    Args:
        xis: Name → ``Kind.usage``, shape (L, K); all of the same shape.
        several: Whether a layer may use several or none, as the components of a mask, or one, which is that with the largest share.

    Returns:
        A matplotlib ``Figure``, not yet saved.

    Raises:
        UsageError: If there are more tasks than lines that can be told apart.
    """
    if len(xis) > MOST:
        raise UsageError(f"{len(xis)} tasks are too many for lines, at most {MOST} can be drawn; take --view tasks")
    layers, templates = next(iter(xis.values())).shape
    used = {name: _used(xi, several=several) for name, xi in xis.items()}
    figure = new_figure(1.8 + 0.55 * layers, 0.9 + 0.4 * max(templates, 0.4 * len(xis)))
    axis = figure.subplots()
    every, step = list(used.values()), min(0.12, 0.7 / len(xis))
    for number, (name, uses) in enumerate(used.items()):
        colour, stroke = LINES[number % len(LINES)], STROKES[number // len(LINES)]

        def height(layer: int, template: int, number: int = number) -> float:
            # lines of tasks that meet in a template pass it beside each other
            users = [place for place, other in enumerate(every) if template in other[layer]]
            return template + 1 + step * (users.index(number) - (len(users) - 1) / 2)

        for layer in range(layers - 1):
            for here in uses[layer]:
                for there in uses[layer + 1]:
                    ends = height(layer, here), height(layer + 1, there)
                    axis.plot([layer + 1, layer + 2], ends, color=colour, linestyle=stroke, linewidth=1.4, zorder=2)
        axis.plot([], [], color=colour, linestyle=stroke, label=name)
    for layer in range(layers):
        for template in sorted({place for uses in every for place in uses[layer]}):
            reach = 0.1 + step * (sum(template in uses[layer] for uses in every) - 1) / 2
            # a line with round ends, as long as the bundle of lines is wide
            axis.plot(
                [layer + 1] * 2, [template + 1 - reach, template + 1 + reach], color=LINE, linestyle="-", linewidth=9, solid_capstyle="round", zorder=1
            )  # fmt: skip
        if len(every) > 1 and all(uses[layer] == every[0][layer] for uses in every):
            axis.axvspan(layer + 0.6, layer + 1.4, fill=False, edgecolor=GOOD, linestyle="--", linewidth=1, zorder=0)
    axis.set_xlim(0.4, layers + 0.6)
    axis.set_ylim(templates + 0.7, 0.3)
    axis.set_xticks(range(1, layers + 1))
    axis.set_yticks(range(1, templates + 1))
    axis.set_xlabel("layer")
    axis.set_ylabel("template")
    legend_beside(axis)
    return figure


def _used(xi: Array, *, several: bool) -> list[list[int]]:
    """Return the templates of each layer that a task uses."""
    return [[int(place) for place in np.flatnonzero(row >= USED)] if several else [int(row.argmax())] for row in xi]
