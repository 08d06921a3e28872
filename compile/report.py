"""The report of a compilation: what was done and what it cost, as JSON for programs and as tables for people."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import torch

from isoform.compile.kind import Exporter, Task
from isoform.compile.nodes import IR_VERSION, OPSET
from isoform.compile.verify import PARITY_LIMIT, PARITY_SCALE, Measured
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.errors import SignatureError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.tables import divided

__all__ = ["report", "report_lines"]


def report(
    bundle: Bundle, tasks: Iterable[Task], exporter: Exporter, measured: Mapping[str, Measured], sizes: Mapping[str, int], *, tau: float
) -> dict[str, Any]:  # fmt: skip
    """Build the report as JSON types.

    Args:
        bundle: The trained bundle.
        tasks: Its tasks.
        exporter: The exporter that compiled them.
        measured: Task → measurements.
        sizes: Compiled file → bytes.
        tau: τ of snapping.
    """
    entries = {}
    for task in tasks:
        cuts = exporter.cuts(bundle, task)
        entries[task.name] = {
            **exporter.told(bundle, task),
            "verified": measured[task.name].to_json(),
            "size_bytes": {
                **{name.split("/")[0]: size for name, size in sizes.items() if name.endswith(f"/{task.name}.onnx")},
                "signature": len(task.signature.encode()), "signature_float16": _half_size(task.signature),
                **{name: len(signature.encode()) for name, signature in cuts.items()},
                **{f"{name}_float16": _half_size(signature) for name, signature in cuts.items()},
            },
        }  # fmt: skip
    means = {}
    for name in ("before", "after", "float16"):
        values = [getattr(figures, f"top1_{name}") for figures in measured.values()]
        means[name] = None if None in values else round(100 * float(np.mean(values)), 3)
    return {
        "format": 1, "columns": dict(exporter.columns),
        "tau": tau, "opset": OPSET, "ir_version": IR_VERSION, "parity_limit": PARITY_LIMIT, "parity_scale": PARITY_SCALE, "tasks": entries,
        "mean_top1_percent": means,
        "versions": {"onnxruntime": ort.__version__, "onnx": onnx.__version__, "torch": torch.__version__, "numpy": np.__version__,
                     "python": platform.python_version(), "machine": platform.machine()},
    }  # fmt: skip


def report_lines(content: Mapping[str, Any]) -> list[str]:
    """Return the report as tables of at most 80 columns."""
    from isoform.compile.tensorrt.tables import target_lines

    told: Mapping[str, str] = content["columns"]
    entries = content["tasks"]
    # Dicts as ordered sets of column names: tasks may differ in what was measured.
    verified, sizes = (
        {name: None for entry in entries.values() for name in entry[key]} for key in ("verified", "size_bytes")
    )
    gaps = [name for name in verified if name.startswith(("torch_", "numpy_"))]
    latencies = [name for name in verified if name.startswith("latency_")]
    tops = ("before", "after", "float16")
    first, second, third = [], [], []
    for task, entry in entries.items():
        v, size = entry["verified"], entry["size_bytes"]
        first.append(
            [task, *(_text(entry.get(name)) for name in told), *(_percent(v[f"top1_{name}"], 100) for name in tops)]
        )
        gradient = "-" if v["gradient"] is None else f"{v['gradient']:.0e}"
        second.append([task, *(f"{v[name]:.0e}" for name in gaps), gradient, *(f"{v[name]:.3f}" for name in latencies)])
        third.append([task, *("-" if size[name] is None else f"{size[name]:,}" for name in sizes)])
    means = content["mean_top1_percent"]
    first.append(["mean", *("" for _ in told), *(_percent(means[name], 1) for name in tops)])
    columns = ["task", *told.values(), "top-1 before", "after", "float16"]
    lines = divided(
        f"accuracy: layers with max ξ ≥ {content['tau']} are snapped to one template; opset {content['opset']}",
        columns, first, left=[place for place, name in enumerate(columns) if name == "task" or name.endswith("by layer")],
    )  # fmt: skip
    lines += divided(
        f"largest difference of logits (limit {content['parity_limit']:g}, relative beyond logits of {PARITY_SCALE:g}),"
        " relative difference of gradients, and latency of one sample on one thread",
        ["task", *(name.replace("_", "-") for name in gaps), "gradient", *(f"{name.split('_')[1]} ms" for name in latencies)], second,
    )  # fmt: skip
    lines += divided("file sizes in bytes", ["task", *(name.replace("_", " ") for name in sizes)], third)
    if "tensorrt" in content:
        lines += target_lines(content["tensorrt"])
    return lines[:-1]


def _text(value: Any) -> str:
    """Format a fact of the kind's: numbers with four digits; what each layer has with spaces, ~ where a layer has several."""
    if isinstance(value, list):
        return " ".join("~" if entry is None else str(entry) for entry in value)
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _half_size(signature: Signature) -> int | None:
    """Size of the float16 file in bytes; None if a number is too large for float16."""
    try:
        return len(signature.to("float16").encode())
    except SignatureError:
        return None


def _percent(value: float | None, factor: int) -> str:
    return "too large" if value is None else f"{factor * value:.2f} %"
