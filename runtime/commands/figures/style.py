"""The style of all figures: the page's colours (``server/page/page.css``), blue on paper, ochre for what differs, green for what is shared.

Requires matplotlib: ``pip install 'isoform[figure]'``.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from isoform.runtime.errors import UsageError
from isoform.runtime.extras import needs
from isoform.runtime.formats import files

__all__ = [
    "ACCENT", "BAD", "ENDINGS", "GOOD", "LINE", "LINES", "MARK", "QUIET", "SOFT", "STROKES", "TEXT", "blank", "differences", "heat_map", "legend_beside",
    "new_figure", "on_colour", "save_figure", "shades", "styled",
]  # fmt: skip

P = ParamSpec("P")
R = TypeVar("R")
TEXT, QUIET, LINE, SOFT = "#1c2434", "#56607a", "#d5dbe8", "#f4f6fb"
ACCENT, MARK, GOOD, BAD = "#34508c", "#b0762a", "#23702f", "#a32a2a"
LINES = (ACCENT, MARK, GOOD, BAD, "#7d98d4", "#d9a860", "#6cae78", QUIET)
"""Colours of lines, in order; the next as many are dashed, then dotted."""
STROKES = ("-", "--", ":")
ENDINGS = (".png", ".svg", ".pdf")
DARK = 0.7
"""Share of a heat map's colour from which text on it is white."""


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that draws, so that all it makes has the style. Raises ``MissingExtraError`` without matplotlib."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with needs("a figure", extra="figure"):
            from matplotlib import rc_context
            from matplotlib.rcsetup import cycler

        strokes = [stroke for stroke in STROKES for _ in LINES]
        with rc_context({
            "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8,
            "figure.titlesize": 10, "text.color": TEXT, "axes.labelcolor": QUIET, "axes.edgecolor": QUIET, "xtick.color": QUIET,
            "ytick.color": QUIET, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "lines.linewidth": 1.4,
            "legend.frameon": False,
            "axes.prop_cycle": cycler(color=[*LINES] * len(STROKES), linestyle=strokes),
        }):  # fmt: skip
            return draw(*args, **kwargs)

    return inside


def new_figure(width: float, height: float) -> Any:
    """Create a matplotlib ``Figure`` of that size in inches; within ``styled``."""
    with needs("a figure", extra="figure"):
        from matplotlib.figure import Figure  # not pyplot, which keeps every figure and may need a display

    return Figure(figsize=(width, height), layout="constrained")


def shades() -> Any:
    """Return the map of shares, 0 to 1: paper to blue."""
    with needs("a figure", extra="figure"):
        from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shares", [SOFT, "#9aacd3", ACCENT])


def differences() -> Any:
    """Return the map of differences: blue for less, ochre for more, paper for none."""
    with needs("a figure", extra="figure"):
        from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("differences", [ACCENT, "#9aacd3", SOFT, "#dcbb8c", MARK])


def heat_map(axis: Any, values: Any, **options: Any) -> Any:
    """Draw a matrix with lines between its cells, by ``shades`` unless another map is given; return the image."""
    image = axis.imshow(values, **{"cmap": shades(), "vmin": 0, "vmax": 1, **options})
    rows, columns = values.shape
    if rows * columns <= 4096:  # of more the lines would be all there is to see
        for line in range(1, rows):
            axis.axhline(line - 0.5, color="white", linewidth=1)
        for line in range(1, columns):
            axis.axvline(line - 0.5, color="white", linewidth=1)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return image


def on_colour(share: float) -> str:
    """Return the colour of text on a cell of that share, 0 to 1."""
    return "white" if share > DARK else TEXT


def blank(axis: Any, text: str) -> None:
    """Write a text instead of a chart."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=QUIET, parse_math=False)


def legend_beside(axis: Any, **options: Any) -> None:
    """Put a legend to the right of a chart, where it hides nothing; names are no formulas."""
    found = axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, **options)
    for text in found.get_texts():
        text.set_parse_math(False)


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure atomically and reproducibly, without a date in it.

    Raises:
        UsageError: If the file name's extension is not .png, .svg or .pdf.
    """
    with needs("a figure", extra="figure"):
        from matplotlib import rc_context

    kind = path.suffix.lower()
    if kind not in ENDINGS:
        raise UsageError(f"the output {path} has extension {path.suffix!r}, but .png, .svg or .pdf was expected")
    buffer = io.BytesIO()
    # None leaves out the time of writing, which PNG files do not get
    dates = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": "isoform"}):  # element ids in SVG are random without a fixed salt
        figure.savefig(buffer, format=kind[1:], dpi=150, metadata=dates[kind])
    files.write_bytes(path, buffer.getvalue())
