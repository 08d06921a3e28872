"""Confusion matrices, one panel per signature: a row per right class, a column per answer. Requires matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isoform.runtime.commands.evaluation import Evaluation
from isoform.runtime.errors import UsageError
from isoform.runtime.extras import needs

__all__ = ["check", "draw"]

ENDINGS = (".png", ".svg", ".pdf")
NUMBERED = 15
"""Classes up to which numbers are written into the cells."""
LABELLED = 40
"""Classes up to which their names are written."""


def check(path: Path) -> None:
    """Check that a picture can be drawn there. Raises ``UsageError``, or ``MissingExtraError`` without matplotlib."""
    with needs("--plot", extra="figure"):
        import matplotlib  # noqa: F401

    if path.suffix not in ENDINGS:
        raise UsageError(f"--plot ends in {path.suffix or 'nothing'!r}, but one of {', '.join(ENDINGS)} was expected")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder; create it first")


def draw(found: Mapping[str, Evaluation], path: Path) -> None:
    """Draw the matrices, each row in shares of its class, and write the picture.

    Args:
        found: Name of a signature → its figures.
        path: The file, as ``check`` accepts it.
    """
    with needs("--plot", extra="figure"):
        from matplotlib.figure import Figure

    from isoform.runtime.commands.figure import save_figure

    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    size = min(12.0, max(3.0, 0.32 * max(len(one.labels) for one in found.values()) + 1.4))
    figure = Figure(figsize=(size * columns, size * rows), layout="compressed")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for panel, (name, one) in zip(axes, found.items(), strict=False):
        _panel(panel, name, one)
    for panel in axes[len(found) :]:
        panel.set_axis_off()
    save_figure(figure, path)


def _panel(panel: Any, name: str, one: Evaluation) -> None:
    counts = one.confusion.sum(axis=1, keepdims=True)
    shares = one.confusion / np.maximum(counts, 1)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    panel.set_title(f"{name}: {100 * one.accuracy:.1f} % of {one.samples:,}".replace("$", r"\$"), fontsize=10)
    panel.set_xlabel("answer")
    panel.set_ylabel("right class")
    places = range(len(one.labels)) if len(one.labels) <= LABELLED else []
    names = [label.replace("$", r"\$") for label in one.labels] if places else []
    panel.set_xticks([*places], names, rotation=90 if max(map(len, names), default=0) > 2 else 0, fontsize=8)
    panel.set_yticks([*places], names, fontsize=8)
    if len(one.labels) <= NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if one.confusion[row, column]:
                panel.text(
                    column, row, int(one.confusion[row, column]), ha="center", va="center", fontsize=7,
                    color="white" if share > 0.5 else "black",
                )  # fmt: skip
