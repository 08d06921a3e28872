"""The report: what compiling did and what it cost, as JSON for programs and as a table for people."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch

from isoform.compile.kinds.mixture.graph import IR_VERSION, OPSET
from isoform.compile.verify import PARITY_LIMIT, PARITY_SCALE, Measured
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.errors import SignatureError
from isoform.runtime.extras import needs
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.discrete import sequence_of, xi_of

__all__ = ["print_report", "report"]


def report(
    bundle: Bundle,
    signatures: Mapping[str, Signature],
    measured: Mapping[str, Measured],
    gradients: Mapping[str, float],
    sizes: Mapping[str, int],
    *,
    tau: float,
) -> dict[str, Any]:
    """The report as JSON types.

    Args:
        bundle: The trained bundle.
        signatures: Task → snapped signature.
        measured: Task → what was measured.
        gradients: Task → largest relative difference of gradients between torch and the device's way.
        sizes: Compiled file → bytes.
        tau: τ of snapping.
    """
    tasks = {}
    for task, signature in signatures.items():
        sequence = sequence_of(xi_of(signature.parts))
        affine_and_statistics = signature.replace(
            parts={**signature.parts, "bn.affine": bundle.resolve(signature)["bn.affine"]}
        )
        swap = affine_and_statistics.keep("mixture", "bn.affine", "bn.statistics")
        tasks[task] = {
            "sequence": list(sequence), "snapped_layers": [i for i, k in enumerate(sequence) if k is not None],
            "mean_max_xi_before": round(float(xi_of(bundle.signatures[task].parts).max(axis=1).mean()), 6),
            "verified": {**dataclasses.asdict(measured[task]), "gradient": gradients[task]},
            "size_bytes": {
                "fast": sizes[f"fast/{task}.onnx"], "small": sizes[f"small/{task}.onnx"],
                "signature": len(signature.encode()), "signature_float16": _half_size(signature),
                "mixture_only": len(signature.keep("mixture").encode()),
                "mixture_bn": len(swap.encode()), "mixture_bn_float16": _half_size(swap),
            },
        }  # fmt: skip
    means = {}
    for name in ("before", "after", "float16"):
        values = [getattr(figures, f"top1_{name}") for figures in measured.values()]
        means[name] = None if None in values else round(100 * float(np.mean(values)), 3)
    return {
        "format": 1, "tau": tau, "opset": OPSET, "ir_version": IR_VERSION, "parity_limit": PARITY_LIMIT, "parity_scale": PARITY_SCALE, "tasks": tasks,
        "mean_top1_percent": means,
        "versions": {"onnxruntime": ort.__version__, "onnx": onnx.__version__, "torch": torch.__version__, "numpy": np.__version__,
                     "python": platform.python_version(), "machine": platform.machine()},
    }  # fmt: skip


def print_report(content: Mapping[str, Any]) -> None:
    """Print the report as two tables on stderr."""
    with needs("the report", extra="train"):
        from rich.console import Console
        from rich.table import Table

    console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 160)
    first = Table(
        title=f"what was compiled: layers with max ξ ≥ {content['tau']} are one template, opset {content['opset']}",
        title_justify="left",
    )
    for column in ("task", "templates by layer", "max ξ", "top-1 before", "after", "float16"):
        first.add_column(column, justify="left" if column in ("task", "templates by layer") else "right")
    second = Table(
        title=f"largest difference of logits (limit {content['parity_limit']:g}, in proportion beyond logits of {PARITY_SCALE:g}),"
        " of gradients in proportion, bytes, and one sample on one thread",
        title_justify="left",
    )
    for column in (
        "task",
        "torch-ORT",
        "numpy-ORT",
        "small",
        "portable",
        "gradient",
        "fast B",
        "small B",
        "fast ms",
        "small ms",
        "signature B",
        "ξ + BN B",
        "in float16",
        "ξ only B",
    ):
        second.add_column(column, justify="left" if column == "task" else "right")
    for task, entry in content["tasks"].items():
        v, size = entry["verified"], entry["size_bytes"]
        sequence = " ".join("~" if k is None else str(k) for k in entry["sequence"])
        first.add_row(
            task,
            sequence,
            f"{entry['mean_max_xi_before']:.4f}",
            *(_percent(v[f"top1_{name}"], 100) for name in ("before", "after", "float16")),
        )
        gaps = [f"{v[name]:.0e}" for name in ("torch_fast", "numpy_fast", "torch_small", "torch_portable", "gradient")]
        second.add_row(
            task, *gaps, f"{size['fast']:,}", f"{size['small']:,}", f"{v['latency_fast_ms']:.3f}", f"{v['latency_small_ms']:.3f}",
            f"{size['signature']:,}", f"{size['mixture_bn']:,}", f"{size['mixture_bn_float16'] or 0:,}", f"{size['mixture_only']:,}",
        )  # fmt: skip
    means = content["mean_top1_percent"]
    first.add_section()
    first.add_row("mean", "", "", *(_percent(means[name], 1) for name in ("before", "after", "float16")))
    console.print(first)
    console.print(second)


def _half_size(signature: Signature) -> int | None:
    """Bytes of the float16 file; None if a number is too large for float16."""
    try:
        return len(signature.to("float16").encode())
    except SignatureError:
        return None


def _percent(value: float | None, factor: int) -> str:
    return "too large" if value is None else f"{factor * value:.2f} %"
