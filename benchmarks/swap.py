"""Swapping users: the device plan beside every other way to give a user their own weights, in one run, on one thread.

    python benchmarks/swap.py [--quick] [--json PATH]

Networks of random weights (speed does not depend on them): small (C = 24, L = 16, 32×32, stem 4) and large (C = 40, L = 16,
224×224, stem 16), K = 4. Times are medians; every run is timed in turn with the others, so that noise is noise to all.

    constant   a session whose weights are constants: the limit, and a new one for every user
    lifted     the device plan, weights bound
    inputs     the portable graph with its weights as plain inputs, optimised as far as ONNX Runtime can
    rebuild    building the constant session, which is what a swap costs without a plan
    cold swap  from a signature file's bytes to bound weights: check, resolve, fold, lay out, bind

More rows (warm swaps, discrete signatures, many users, memory, adapters) are to come.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from isoform.compile.graph import portable_graph
from isoform.runtime.bundle import Bundle
from isoform.runtime.engine import portable_session, session_options
from isoform.runtime.fold import fold
from isoform.runtime.laid_fold import LaidFold
from isoform.runtime.lift import lift_weights
from isoform.runtime.plan import bind, build_plan, lifted_session
from isoform.runtime.signature import Signature
from isoform.runtime.spec import NetworkSpec, template_digest

SPECS = {
    "small": NetworkSpec(input_shape=(1, 32, 32), adapter_kernel=(4, 4), layers=16, templates=4),
    "large": NetworkSpec(
        input_shape=(3, 224, 224), adapter_kernel=(16, 16), layers=16, templates=4, channels=40, expansion=6,
        head_channels=240, embedding=1280, mean=(0.5,) * 3, std=(0.25,) * 3,
    ),
}  # fmt: skip
CLASSES = 10


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats: under a minute")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    figures: dict[str, object] = {
        "machine": platform.processor() or platform.machine(), "python": platform.python_version(), "onnxruntime": ort.__version__,
        "quick": arguments.quick,
    }  # fmt: skip
    for name, spec in SPECS.items():
        print(f"measuring {name}", file=sys.stderr)
        figures.update(
            {f"{name}.{key}": value for key, value in measure(spec, repeats=60 if arguments.quick else 400).items()}
        )
    print_table(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def make_bundle(spec: NetworkSpec) -> Bundle:
    """A bundle of random weights with one task."""
    rng = np.random.default_rng(0)
    tensors = {n: rng.normal(0, 0.3, shape).astype(np.float32) for n, shape in spec.template_shapes.items()}
    parts = {
        "mixture": rng.normal(size=(spec.layers, spec.templates)),
        "bn.statistics": np.stack([rng.normal(size=spec.bn_channels), rng.uniform(0.5, 2, spec.bn_channels)]),
        "logits.weight": rng.normal(size=(CLASSES, spec.embedding)) / 16, "logits.bias": np.zeros(CLASSES),
    }  # fmt: skip
    labels = tuple(str(i) for i in range(CLASSES))
    base = Signature(parts=parts, template=template_digest(spec, tensors), task="base", labels=labels)
    return Bundle.create(spec=spec, tensors=tensors, signatures={"base": base}, training={})


def measure(spec: NetworkSpec, *, repeats: int) -> dict[str, float]:
    """All figures of one network."""
    bundle = make_bundle(spec)
    base = bundle.signatures["base"]
    portable = portable_graph(spec, template=bundle.digest)
    folded = fold(spec, bundle.tensors, bundle.resolve(base))
    head = {key: folded[key] for key in ("logits.weight", "logits.bias")}
    started = time.perf_counter()
    plan = build_plan(portable, spec)
    figures = {"plan_build_ms": 1e3 * (time.perf_counter() - started)}

    constant, lifted = portable_session(portable, spec, folded, threads=1), lifted_session(plan, threads=1)
    plain, plain_feed = inputs_session(portable, folded)
    vector, binding = plan.lay_out(folded), lifted.io_binding()
    bind(binding, plan, vector, head)

    def run_lifted(x: np.ndarray) -> np.ndarray:
        binding.bind_cpu_input("image", x)
        binding.bind_output("logits", "cpu")
        lifted.run_with_iobinding(binding)
        return binding.get_outputs()[0].numpy()

    for batch in (1, 16):
        x = np.random.default_rng(batch).uniform(0, 1, (batch, *spec.input_shape)).astype(np.float32)
        expected = constant.run(None, {"image": x, **head})[0]
        gap = float(np.abs(run_lifted(x) - expected).max() / np.abs(expected).max())
        count = max(10, repeats // (1 if batch == 1 else 4) // (1 if spec.channels < 40 else 4))
        times = medians_ms(
            [
                lambda x=x: constant.run(None, {"image": x, **head}),
                lambda x=x: run_lifted(x),
                lambda x=x: plain.run(None, {"image": x, **plain_feed}),
            ],
            count,
        )
        figures.update({
            f"b{batch}.constant_ms": times[0], f"b{batch}.lifted_ms": times[1], f"b{batch}.inputs_ms": times[2],
            f"b{batch}.lifted_over_constant": times[1] / times[0], f"b{batch}.inputs_over_constant": times[2] / times[0],
            f"b{batch}.largest_relative_difference": gap,
        })  # fmt: skip

    data = base.keep("mixture").encode()
    other, fast_fold = lifted.io_binding(), LaidFold(spec, bundle.tensors, plan)

    def cold_swap() -> None:
        signature = Signature.decode(data)
        parts = bundle.resolve(signature)
        bind(other, plan, fast_fold(parts), {key: parts[key] for key in head})

    swap_ms, rebuild_ms = medians_ms(
        [cold_swap, lambda: portable_session(portable, spec, folded, threads=1)], max(20, repeats // 4)
    )
    figures.update({
        "cold_swap_us": 1e3 * swap_ms, "rebuild_ms": rebuild_ms, "rebuild_over_cold_swap": rebuild_ms / swap_ms,
        "signature_bytes": len(data),
    })  # fmt: skip
    return figures


def inputs_session(
    portable: bytes, folded: dict[str, np.ndarray]
) -> tuple[ort.InferenceSession, dict[str, np.ndarray]]:
    """The portable graph with its weights as plain inputs, and the feed for them."""
    import onnx

    model = onnx.load_from_string(portable)
    for tensor in model.graph.initializer:
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.raw_data = folded[tensor.name].tobytes()
    graph, weights = lift_weights(model.SerializeToString())
    session = ort.InferenceSession(graph, session_options(1), providers=["CPUExecutionProvider"])
    return session, {**weights, "logits.weight": folded["logits.weight"], "logits.bias": folded["logits.bias"]}


def medians_ms(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median milliseconds of each, timed in turn."""
    times = np.empty((repeats, len(runs)))
    for run in runs:
        for _ in range(5):
            run()
    for row in times:
        for column, run in enumerate(runs):
            start = time.perf_counter()
            run()
            row[column] = 1e3 * (time.perf_counter() - start)
    return [float(value) for value in np.median(times, axis=0)]


def print_table(figures: dict[str, object]) -> None:
    """The figures of both networks side by side."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"swapping users, one thread, ONNX Runtime {figures['onnxruntime']}", title_justify="left")
    for column in ("figure", *SPECS):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for key in [key.removeprefix("small.") for key in figures if key.startswith("small.")]:
        table.add_row(key, *(f"{figures[f'{name}.{key}']:.4g}" for name in SPECS))
    Console(width=None if Console().is_terminal else 100).print(table)


if __name__ == "__main__":
    main()
