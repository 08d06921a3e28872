"""The report's tables of TensorRT: forms and engines, engines of one task each, and what runs on the GPU say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

__all__ = ["target_tables"]


def target_tables(content: Mapping[str, Any]) -> list[Table]:
    """Return the tables.

    Args:
        content: ``Written.report``, and ``verified`` if the engines were run.
    """
    tables = [_engines(content)]
    if content["tasks"]:
        tables.append(_tasks(content))
    if "verified" in content:
        tables.append(_verified(content["verified"]))
    return tables


def _engines(content: Mapping[str, Any]) -> Table:
    """Make the table of TensorRT's forms and engines."""
    version = f" {content['version']}" if "version" in content else ", no engines"
    devices = ", ".join(content.get("architectures", ())) or "the GPU at hand"
    made = Table(
        title=f"{content['product']}{version}, {content['precision']}, for {devices}: one user per run, or many", title_justify="left"
    )  # fmt: skip
    for column in ("graph", "form", "from ONNX Runtime", "layers", "inputs", "engine bytes", "s"):
        made.add_column(column, justify="left" if column in ("graph", "form") else "right")
    for graph, entry in content["graphs"].items():
        for form in ("one", "many", "kernel"):
            told = entry.get(form)
            if told is None:
                continue
            if "reason" in told:
                made.add_row(graph, form, told["reason"])
                continue
            numbers = [f"{told[key]:,}" if key in told else "-" for key in ("layers", "inputs", "engine_bytes")]
            seconds = f"{told['build_seconds']:.1f}" if "build_seconds" in told else "-"
            gap = f"{told['gap']:.0e}" if "gap" in told else "-"
            made.add_row(graph, form, gap, *numbers, seconds)
    return made


def _tasks(content: Mapping[str, Any]) -> Table:
    """Make the table of the tasks' own engines."""
    made = Table(title=f"engines of one task each, {content['precision']}", title_justify="left")
    for column in ("task", "top-1 before", "after", "same answers", "layers", "engine bytes", "s"):
        made.add_column(column, justify="left" if column == "task" else "right")
    for task, told in content["tasks"].items():
        shares = [f"{100 * told[key]:.2f} %" for key in ("top1_before", "top1_after", "agreement")]
        numbers = [f"{told[key]:,}" if key in told else "-" for key in ("layers", "engine_bytes")]
        made.add_row(task, *shares, *numbers, f"{told['build_seconds']:.1f}" if "build_seconds" in told else "-")
    return made


def _verified(content: Mapping[str, Any]) -> Table:
    """Make the table of runs on the GPU."""
    made = Table(title=f"on {content['device']}, beside ONNX Runtime", title_justify="left")
    for column in ("task", "run by", "difference", "same answers", "top-1 before", "after"):
        made.add_column(column, justify="left" if column in ("task", "run by") else "right")
    for task, ways in content["tasks"].items():
        for way, told in ways.items():
            shares = [f"{100 * told[key]:.2f} %" for key in ("agreement", "top1_before", "top1_after")]
            made.add_row(task, way, f"{told['gap']:.0e}", *shares)
    return made
