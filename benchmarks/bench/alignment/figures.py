"""Figures of the search for an alignment: the hypermodules of all locations over time (MUIR, figure 2), and theorem 3.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

__all__ = ["convergence", "logarithmic"]

BLUE, GREY = "#2b6cb0", "#888888"


def convergence(alignments: Sequence[Sequence[int]], path: Path) -> None:
    """Draw ψ over time: a row per location, a column per generation, a colour per hypermodule."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axis = figure.subplots()
    axis.imshow(np.array(alignments).T, aspect="auto", cmap="nipy_spectral", interpolation="nearest")
    axis.set(xlabel="generation", ylabel="task")
    _save(figure, path)


def logarithmic(counts: Mapping[int, Sequence[int]], slope: float, start: float, path: Path) -> None:
    """Draw the number of generations over the number of locations, on a logarithmic axis, and the fitted line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3), layout="constrained")
    axis = figure.subplots()
    for length, values in counts.items():
        axis.scatter([length] * len(values), values, s=5, color=GREY, alpha=0.5, linewidths=0)
    ends = np.array([min(counts), max(counts)])
    axis.plot(ends, slope * np.log(ends) + start, color=BLUE, label=f"{slope:.1f} ln L + {start:.1f}")
    axis.set(xscale="log", xlabel="locations, L", ylabel="generations", ylim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    _save(figure, path)


def _save(figure: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)  # type: ignore[attr-defined]
