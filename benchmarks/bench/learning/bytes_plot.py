"""Bytes against accuracy: what every part of a signature is worth, as a line, and controls of the same size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.learning.beside_controls import OTHERS, PARTS

__all__ = ["plot_bytes"]

LARGE = 5000
"""Bytes from which on a label stands to the left of its point, so that it stays inside the picture."""
MARKS = dict(zip(OTHERS, ("s", "^", "D", "v"), strict=True))


def plot_bytes(table: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int], domains: Sequence[str], path: Path) -> None:  # fmt: skip
    """Draw three panels: people on the occasion that they learned from, on another one, and digits in new domains.

    Args:
        table: Tested on → way → mean accuracy in percent, with way ``start``.
        sizes: Way → bytes.
        domains: The keys of the table that are domains; their mean is drawn.
        path: Where to.
    """
    from matplotlib.figure import Figure

    seen = [table[name] for name in domains if name in table]
    mean = {way: float(np.mean([column[way] for column in seen])) for way in seen[0]}
    panels = {**{f"people, {name}": table[name] for name in table if name not in domains}, "digits, new domains": mean}
    figure = Figure(figsize=(11.5, 3.6), layout="constrained")
    for axis, (title, column) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        ours = sorted((sizes[way], column[way], way) for way in PARTS if way in column and sizes.get(way))
        # the line is the best that so many bytes can do: a larger part is not always a better one
        best = np.maximum.accumulate([value for _, value, _ in ours])
        axis.step([size for size, _, _ in ours], best, where="post", color="#2b6cb0", linewidth=1)
        axis.plot([o[0] for o in ours], [o[1] for o in ours], "o", color="#2b6cb0", markersize=5, label="isoform")
        for size, value, way in ours:
            right, up = (size > LARGE or way == "coefficients"), way in ("delta + coefficients", "mixture + BN + head")
            axis.annotate(
                way, (size, value), xytext=(-5 if right else 5, 6 if up else -9), textcoords="offset points", fontsize=7,
                color="#2b6cb0", ha="right" if right else "left",
            )  # fmt: skip
        for way in (way for way in OTHERS if way in column):
            axis.plot(sizes[way], column[way], MARKS[way], color="#d9822b", markersize=5, label=way)
        axis.axhline(column["start"], color="#888", linewidth=1, linestyle="--", label="not personalized")
        axis.axvline(1024, color="#ccc", linewidth=1, zorder=0)
        axis.set(xscale="log", xlabel="bytes per user", title=title)
        low = min([o[0] for o in ours] + [sizes[way] for way in OTHERS if way in column])
        axis.set_xlim(low / 3, 2.2 * max(o[0] for o in ours))
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("mean accuracy in %")
    handles = {
        label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.axes[-1].legend(handles.values(), handles.keys(), fontsize=7, frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
