"""Figures of modules that networks share, from the record of a training run of kind ``alignment``.

    draw_modules    how many modules each set of tasks uses and no other, over the generations        (MUIR, figure 3a)
    draw_layers     how many times more often two layers use the same module than by chance           (figure 3b)

Requires matplotlib.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.commands.figures.style import TEXT, differences, heat_map, legend_beside, new_figure, styled
from isoform.runtime.errors import UsageError

__all__ = ["Sharing", "draw_layers", "draw_modules", "read_sharing"]

LINES = 12
"""Largest number of sets with a line of their own."""


@dataclasses.dataclass(frozen=True)
class Sharing:
    """What the record says."""

    generations: list[int]
    shared: dict[str, list[int]]
    """Tasks, joined by `` + `` → number of modules at each generation."""
    layers: list[str]
    between: Array
    """Shape (layers, layers), 0 or more; 1 is chance."""


def read_sharing(training: Mapping[str, Any]) -> Sharing:
    """Read the record from ``Bundle.training``. Raises ``UsageError`` if there is none, or it is damaged."""
    record = training.get("record")
    try:
        generations = [int(number) for number in record["generations"]]  # type: ignore[index]
        times = [{str(name): int(count) for name, count in time.items()} for time in record["shared"]]  # type: ignore[index]
        layers = [str(name) for name in record["layers"]]  # type: ignore[index]
        between = np.array(record["between"], dtype=np.float64).reshape(len(layers), len(layers))  # type: ignore[index]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(
            "the bundle has no record of which modules its networks share; 'isoform train' writes one for kind alignment"
        ) from None
    if len(generations) != len(times) or not times or not layers or not (between >= 0).all():
        raise UsageError("the bundle's record of which modules its networks share is damaged; train it again")
    names = sorted({name for time in times for name in time}, key=lambda name: (name.count(" + "), name))
    return Sharing(generations, {name: [time.get(name, 0) for time in times] for name in names}, layers, between)


@styled
def draw_modules(sharing: Sharing) -> Any:
    """Draw the number of modules of every set of tasks over the generations, and of all together.

    Returns:
        A matplotlib ``Figure``, not yet saved.
    """
    largest = sorted(sharing.shared, key=lambda name: -max(sharing.shared[name]))[:LINES]
    figure = new_figure(7.6, 3.4)
    axis = figure.subplots()
    for name, counts in sharing.shared.items():
        if name in largest:
            axis.plot(
                sharing.generations, counts, linewidth=1.8 if " + " not in name else 1.2, label=name, clip_on=False
            )
    total = np.sum([*sharing.shared.values()], axis=0)
    axis.plot(sharing.generations, total, color=TEXT, linestyle="-", label="all", clip_on=False)
    axis.set(xlabel="generation", ylabel="modules in use", ylim=(0, None))
    legend_beside(axis)
    return figure


@styled
def draw_layers(sharing: Sharing) -> Any:
    """Draw how much every two layers share, on a logarithmic scale around chance.

    Returns:
        A matplotlib ``Figure``, not yet saved.
    """
    size = 2.6 + 0.22 * len(sharing.layers)
    figure = new_figure(size + 1, size)
    axis = figure.subplots()
    # a quarter of chance and below is one colour: never would be minus infinity
    ratios = np.log2(np.clip(sharing.between, 0.25, None))
    bound = max(2.0, float(ratios.max()))
    image = heat_map(axis, ratios, vmin=-bound, vmax=bound, cmap=differences())
    axis.set_yticks(range(len(ratios)), sharing.layers, parse_math=False)
    axis.set_xticks(range(len(ratios)), sharing.layers, parse_math=False, rotation=90)
    bar = figure.colorbar(image, ax=axis, label="same module, times chance", shrink=0.8)
    ticks = np.arange(-2, int(bound) + 1)
    bar.set_ticks(ticks, labels=["≤ ¼", "½", *(str(2**tick) for tick in ticks[2:])])
    bar.ax.set_ylim(-2, bound)
    bar.outline.set_visible(False)
    return figure
