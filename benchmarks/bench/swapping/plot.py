"""Two pictures of one benchmark: what running costs, and what changing users costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

RUNNING = {
    "isoform": "lifted", "mixture in the graph": "mixture", "ONNX Runtime adapter": "adapter", "weights as inputs": "inputs"
}  # fmt: skip
SWAPPING = {
    "isoform, hot, just used": "warm_swap_us",
    "ONNX Runtime adapter file": "adapter_load_us",
    "isoform, hot": "far_swap_us",
    "isoform, cold, discrete": "discrete_cold_swap_us",
    "isoform, cold, mixture": "cold_swap_us",
    "isoform, cold, with BN": "bn_cold_swap_us",
    "session, optimised file": "preoptimised_us",
    "session, file": "rebuild_us",
}


def plot_swaps(figures: Mapping[str, object], path: Path) -> None:
    """Draw ``swap.py``'s figures.

    Args:
        figures: What it measured.
        path: The picture to write: .png, .svg or .pdf.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for network, (offset, colour) in {"small": (0.2, "#2b6cb0"), "large": (-0.2, "#90b4d6")}.items():
        ratios = [float(str(figures[f"{network}.b1.{key}_over_constant"])) for key in RUNNING.values()]
        times = [float(str(figures[f"{network}.{key}"])) for key in SWAPPING.values()]
        for axes, values, form in ((left, ratios, "{:.2f}"), (right, times, "{:,.0f}")):
            places = [len(values) - 1 - place + offset for place in range(len(values))]
            bars = axes.barh(places, values, height=0.38, color=colour, label=network)
            axes.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize=8)
    for axes, names in ((left, RUNNING), (right, SWAPPING)):
        axes.set_yticks(range(len(names)), list(names)[::-1])
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(loc="upper right", frameon=False, title="network")
    left.axvline(1, color="#444", linewidth=1, linestyle="--")
    left.set_xlim(0, 1.25 * left.get_xlim()[1])
    left.set_xlabel("time of one sample, over constant weights")
    left.set_title("Running with a user's own weights", loc="left", fontsize=11)
    right.set_xscale("log")
    right.set_xlim(1, 12 * right.get_xlim()[1])
    right.set_xlabel("microseconds, logarithmic")
    right.set_title("Changing to another user", loc="left", fontsize=11)
    figure.text(
        0.995, -0.04, f"{figures['machine']}, one thread, ONNX Runtime {figures['onnxruntime']}, {figures['date']}", ha="right", fontsize=8
    )  # fmt: skip
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)
