"""Compiled graphs, other files of tensors, and JSON, in about ten lines for a person."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from isoform.runtime.tables import aligned, cut, named, size, tail

__all__ = ["other_lines"]

ROWS = 12
"""Rows of a table, at most."""


def other_lines(found: Mapping[str, Any], *, name: str) -> list[str]:
    """Describe what ``facts.opened`` returns as JSON types.

    Args:
        found: What it returned.
        name: The file.
    """
    if found["what"] == "JSON":
        content = found["content"]
        pairs = (
            content.items()
            if isinstance(content, dict)
            else enumerate(content)
            if isinstance(content, list)
            else [("", content)]
        )
        return [*named("JSON", tail(name)), "", *_table(["field", "value"], [[str(key), json.dumps(value)] for key, value in pairs])]  # fmt: skip
    what, _, more = found["what"].partition(" ")
    lines = named(what, f"{tail(name)}: {size(found['size_bytes'])}" + (f", {more}" if more else ""))
    for field in ("producer", "note", "template"):
        if found.get(field):
            lines += named(field, str(found[field]))
    for end in ("inputs", "outputs"):
        if end in found:
            lines += named(end, ", ".join(f"{key} {value}" for key, value in found[end].items()))
    metadata = found.get("metadata") or {}
    if metadata:
        lines += ["", *_table(["metadata", "value"], [[key, str(value)] for key, value in metadata.items()])]
    if "tensors" in found:
        lines += ["", *_table(["tensor", "type and shape"], [[key, value] for key, value in found["tensors"].items()])]
    return lines


def _table(columns: list[str], rows: Iterable[list[str]]) -> list[str]:
    rows = [[cut(key, 40), value] for key, value in rows]
    left = [f"{len(rows) - ROWS} more; --json has all"] if len(rows) > ROWS else []
    return [*aligned(columns, rows[:ROWS], left=(0, 1)), *left]
