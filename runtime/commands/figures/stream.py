"""Figure of an adaptation: accuracy, entropy, concentration and events over the samples of the stream.

Input is the file that ``isoform adapt --history`` writes. Requires matplotlib: ``pip install 'isoform[figure]'``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isoform.runtime.commands.figures.style import (
    ACCENT,
    BAD,
    GOOD,
    MARK,
    QUIET,
    TEXT,
    legend_beside,
    new_figure,
    styled,
)
from isoform.runtime.errors import InputError
from isoform.runtime.formats import files

__all__ = ["draw_stream", "read_history"]

LIMIT = 64 << 20  # a record is about 200 bytes
MARKS = {"new domain": MARK, "reset": BAD, "rejected": "#d98880", "rollback": "#7d98d4"}
"""Events drawn as vertical lines → colour."""
NUMBERS = ("samples", "entropy", "concentration", "accuracy", "shift")


def read_history(path: Path) -> dict[str, Any]:
    """Read a history file. Raises ``InputError`` if it is not one."""
    content = files.read_json(path, limit=LIMIT, error=InputError, what="history")
    calls = content.get("calls") if isinstance(content, dict) and content.get("what") == "adaptation" else None
    fine = isinstance(calls, list) and calls and all(isinstance(call, dict) and _is_call(call) for call in calls)
    if not fine:
        raise InputError(f"{path} is not an adaptation history; 'isoform adapt --history {path}' writes one")
    result: dict[str, Any] = content
    return result


def _is_call(call: Mapping[str, Any]) -> bool:
    needed = all(isinstance(call.get(name), int | float) for name in NUMBERS[:3])
    return needed and all(isinstance(call.get(name), int | float | None) for name in NUMBERS[3:])


@styled
def draw_stream(history: Mapping[str, Any]) -> Any:
    """Draw a history.

    Args:
        history: The result of ``read_history``.

    Returns:
        A matplotlib ``Figure``, not yet saved.
    """
    calls = history["calls"]
    samples = [call["samples"] for call in calls]
    rows = [("entropy in nats", "entropy", ACCENT), ("concentration κ", "concentration", GOOD)]
    if any(call.get("shift") is not None for call in calls):
        rows.append(("shift in squared spreads", "shift", QUIET))
    if any(call.get("accuracy") is not None for call in calls):
        rows.insert(0, ("right in %", "accuracy", TEXT))
    figure = new_figure(8, 0.9 + 1.3 * len(rows))
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, name, colour) in zip(axes, rows, strict=True):
        scale = 100 if name == "accuracy" else 1
        points = [(x, scale * call[name]) for x, call in zip(samples, calls, strict=True) if call.get(name) is not None]
        # a short stream may have a single point per row, which a line alone would not show
        marker = "." if len(points) < 60 else None
        # points at 0 and at the top are drawn whole
        axis.plot(*zip(*points, strict=True), color=colour, linestyle="-", marker=marker, clip_on=False, zorder=3)
        axis.set_title(label, loc="left")
        axis.set_ylim(0, 100 if name == "accuracy" else 1.05 * max(y for _, y in points) or 1)
        for x, call in zip(samples, calls, strict=True):
            if call.get("event") in MARKS:
                axis.axvline(x, color=MARKS[call["event"]], linewidth=1, linestyle="-", label=call["event"])
    axes[-1].set_xlabel("samples")
    figure.suptitle(str(history.get("method", "")), parse_math=False)
    lines, names = axes[0].get_legend_handles_labels()
    found = dict(zip(names, lines, strict=True))
    marked = [event for event in MARKS if event in found]
    if marked:
        legend_beside(axes[0], handles=[found[event] for event in marked], labels=marked)
    return figure
