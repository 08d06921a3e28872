"""Confusion matrices, one panel per signature: a row per right class, a column per answer. Requires matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isoform.runtime.commands.evaluation import Evaluation
from isoform.runtime.commands.figures.style import ENDINGS, heat_map, new_figure, on_colour, save_figure, styled
from isoform.runtime.errors import UsageError
from isoform.runtime.extras import needs

__all__ = ["check", "draw"]

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
    save_figure(_drawn(found), path)


@styled
def _drawn(found: Mapping[str, Evaluation]) -> Any:
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    size = min(12.0, max(3.0, 0.32 * max(len(one.labels) for one in found.values()) + 1.4))
    figure = new_figure(size * columns, size * rows)
    figure.set_layout_engine("compressed")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for panel, (name, one) in zip(axes, found.items(), strict=False):
        _panel(panel, name, one)
    for panel in axes[len(found) :]:
        panel.set_axis_off()
    return figure


def _panel(panel: Any, name: str, one: Evaluation) -> None:
    counts = one.confusion.sum(axis=1, keepdims=True)
    shares = one.confusion / np.maximum(counts, 1)
    heat_map(panel, shares)
    panel.set_title(f"{name}: {100 * one.accuracy:.1f} % of {one.samples:,}", parse_math=False)
    panel.set_xlabel("answer")
    panel.set_ylabel("right class")
    places = range(len(one.labels)) if len(one.labels) <= LABELLED else []
    names = [*one.labels] if places else []
    panel.set_xticks([*places], names, rotation=90 if max(map(len, names), default=0) > 2 else 0, parse_math=False)
    panel.set_yticks([*places], names, parse_math=False)
    if len(one.labels) <= NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if one.confusion[row, column]:
                panel.text(
                    column, row, int(one.confusion[row, column]), ha="center", va="center", fontsize=7,
                    color=on_colour(share),
                )  # fmt: skip
