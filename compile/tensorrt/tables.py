"""The report's tables of TensorRT: forms and engines, engines of one task each, and what runs on the GPU say."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from isoform.runtime.errors import printable
from isoform.runtime.tables import WIDTH, divided

__all__ = ["target_lines"]


def target_lines(content: Mapping[str, Any]) -> list[str]:
    """Return the tables as lines of at most 80 columns.

    Args:
        content: ``Written.report``, and ``verified`` if the engines were run.
    """
    lines = _engines(content)
    if content["tasks"]:
        lines += _tasks(content)
    if "verified" in content:
        lines += _verified(content["verified"])
    return lines


def _engines(content: Mapping[str, Any]) -> list[str]:
    """Make the table of TensorRT's forms and engines; below it stands what could not be built."""
    version = f" {content['version']}" if "version" in content else ", no engines"
    devices = ", ".join(content.get("architectures", ())) or "the GPU at hand"
    rows, reasons = [], []
    for graph, entry in content["graphs"].items():
        for form in ("one", "many", "kernel"):
            told = entry.get(form)
            if told is None:
                continue
            if "reason" in told:
                reasons.append(f"{graph}, {form}: {told['reason']}")
                continue
            numbers = [f"{told[key]:,}" if key in told else "-" for key in ("layers", "inputs", "engine_bytes")]
            seconds = f"{told['build_seconds']:.1f}" if "build_seconds" in told else "-"
            rows.append([graph, form, f"{told['gap']:.0e}" if "gap" in told else "-", *numbers, seconds])
    title = f"{content['product']}{version}, {content['precision']}, for {devices}: one user per run, or many"
    columns = ("graph", "form", "from ONNX Runtime", "layers", "inputs", "engine bytes", "s")
    lines = divided(title, columns, rows, left=(0, 1))
    for reason in reasons:
        lines += textwrap.wrap(printable(reason), WIDTH)
    return [*lines, ""] if reasons else lines


def _tasks(content: Mapping[str, Any]) -> list[str]:
    """Make the table of the tasks' own engines."""
    rows = []
    for task, told in content["tasks"].items():
        shares = [f"{100 * told[key]:.2f} %" for key in ("top1_before", "top1_after", "agreement")]
        numbers = [f"{told[key]:,}" if key in told else "-" for key in ("layers", "engine_bytes")]
        rows.append([task, *shares, *numbers, f"{told['build_seconds']:.1f}" if "build_seconds" in told else "-"])
    columns = ("task", "top-1 before", "after", "same answers", "layers", "engine bytes", "s")
    return divided(f"engines of one task each, {content['precision']}", columns, rows)


def _verified(content: Mapping[str, Any]) -> list[str]:
    """Make the table of runs on the GPU."""
    rows = []
    for task, ways in content["tasks"].items():
        for way, told in ways.items():
            shares = [f"{100 * told[key]:.2f} %" for key in ("agreement", "top1_before", "top1_after")]
            rows.append([task, way, f"{told['gap']:.0e}", *shares])
    columns = ("task", "run by", "difference", "same answers", "top-1 before", "after")
    return divided(f"on {content['device']}, beside ONNX Runtime", columns, rows, left=(0, 1))
