"""Accuracy along the long streams: auto, no adaptation, and Tent in torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.adapting.streams import Result

__all__ = ["plot"]

COLOURS = {"none": "#888888", "auto": "#2b6cb0", "torch tent 0.001": "#d9822b"}


def plot(results: Sequence[Result], path: Path) -> None:
    """One panel per stream."""
    from matplotlib.figure import Figure

    long = [r for r in results if r.task.setting.startswith("long")]
    panels = list(dict.fromkeys((r.task.data, r.task.domain) for r in long))
    columns = min(4, len(panels))
    figure = Figure(figsize=(3.2 * columns, 2.6 * -(-len(panels) // columns)), layout="constrained")
    axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False)
    for axis, (data, domain) in zip(axes.flat, panels, strict=False):
        for result in long:
            if (result.task.data, result.task.domain) == (data, domain):
                windows = 100 * np.array(result.right, dtype=float).reshape(-1, 500).mean(axis=1)
                axis.plot(
                    500 * np.arange(1, len(windows) + 1), windows, label=result.task.way, color=COLOURS[result.task.way]
                )
        axis.set_title(f"{data}, {domain}", fontsize=10)
        axis.set(xlabel="samples", ylabel="accuracy in %", ylim=(0, 100))
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[0].legend(fontsize=8, frameon=False)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
