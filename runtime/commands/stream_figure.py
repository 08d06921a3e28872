"""Figure of an adaptation: accuracy, entropy, concentration and events over the samples of the stream.

Input is the file that ``isoform adapt --history`` writes. Requires matplotlib: ``pip install 'isoform[figure]'``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isoform.runtime.errors import InputError
from isoform.runtime.extras import needs
from isoform.runtime.formats import files

__all__ = ["draw_stream", "read_history"]

LIMIT = 64 << 20  # a record is about 200 bytes
MARKS = {"new domain": "#d9822b", "reset": "#c53030", "rejected": "#c53030", "rollback": "#805ad5"}
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


def draw_stream(history: Mapping[str, Any]) -> Any:
    """Draw a history.

    Args:
        history: The result of ``read_history``.

    Returns:
        A matplotlib ``Figure``, not yet saved.
    """
    with needs("a figure", extra="figure"):
        from matplotlib.figure import Figure

    calls = history["calls"]
    samples = [call["samples"] for call in calls]
    rows = [("entropy in nats", "entropy", "#2b6cb0"), ("concentration κ", "concentration", "#38a169")]
    if any(call.get("shift") is not None for call in calls):
        rows.append(("shift in squared spreads", "shift", "#718096"))
    if any(call.get("accuracy") is not None for call in calls):
        rows.insert(0, ("right in %", "accuracy", "#1a202c"))
    figure = Figure(figsize=(8, 0.6 + 1.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, name, colour) in zip(axes, rows, strict=True):
        scale = 100 if name == "accuracy" else 1
        points = [(x, scale * call[name]) for x, call in zip(samples, calls, strict=True) if call.get(name) is not None]
        # a short stream may have a single point per row, which a line alone would not show
        axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, marker="." if len(points) < 60 else None)
        axis.set_ylabel(label, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
        for x, call in zip(samples, calls, strict=True):
            if call.get("event") in MARKS:
                axis.axvline(x, color=MARKS[call["event"]], linewidth=0.8, alpha=0.7)
    axes[-1].set_xlabel("samples")
    found = [event for event in MARKS if any(call.get("event") == event for call in calls)]
    axes[0].set_title(
        f"{history.get('method', '')}{''.join(f', | {event}' for event in found)}", fontsize=9, loc="left"
    )
    return figure
