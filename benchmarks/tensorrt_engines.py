"""Users' networks on a GPU: TensorRT with weights as inputs and the kernel, beside engines with constant weights, refits, and torch.

    python benchmarks/tensorrt_engines.py [--quick] [--json PATH] [--networks small large] [--batches 1 32 128 1024] [--bundle DIR]

On a machine with a GPU, networks of random weights (``bench/networks.py``) run in float32 (without TF32) and float16:

    constant          an engine with one user's weights as constants, the form ``task``: what a runtime without signatures would ship
    refit             the same, built so that its weights can be replaced
    one               weights as inputs, one user per run
    many              every sample's weights from its user's row of a table; here all of one user
    many_mixed        the same with as many users as samples
    kernel            the kind's own kernel; kernel_mixed: with as many users as samples
    torch_eager       the user's network in torch; torch_graph: replayed as a CUDA graph

Logits go to pinned memory in every one. Samples come from there in torch; ours are copied there first, within the time. Ours replay CUDA graphs.
Answers are compared with ONNX Runtime's on the processor before anything is timed. A swap is what it takes until another user can be run:
``warm``: weights are on the GPU; ``cold``: from a signature file's bytes; ``refit``: the weights of the engine with constants are replaced.
Then the engines of a trained bundle are run on real samples beside ONNX Runtime, as ``isoform compile --target`` does.

Without a GPU, engines are built by TensorRT-RTX for ``--architecture`` and their sizes are printed; nothing of speed is.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

from bench.gpu.builds import builds
from bench.gpu.subjects import make_subject
from bench.harness import machine, parser, print_table, write_json
from bench.networks import SPECS

from isoform.runtime.engines.tensorrt.cuda import Device, gpu_or_none
from isoform.runtime.errors import IsoformError

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure, print, write."""
    arguments, started = _arguments(), time.perf_counter()
    gpu = gpu_or_none()
    figures: dict[str, object] = {**machine(), **_versions(), "quick": arguments.quick, "gpu": gpu, "reasons": {}}
    with tempfile.TemporaryDirectory(prefix="isoform-gpu-") as folder:
        for name in arguments.networks:
            for precision in ("fp32", "fp16"):
                subject = make_subject(
                    name,
                    precision,
                    Path(folder) / f"{name}-{precision}",
                    count=max(arguments.batches),
                    largest=max(arguments.batches),
                )
                key = f"{name}.{precision}"
                try:
                    found = builds(subject, architecture=arguments.architecture, largest=max(arguments.batches))
                    figures |= {f"{key}.build.{what}": value for what, value in found.items()}
                except IsoformError as problem:
                    figures["reasons"][f"{key}.build"] = str(problem)
                if gpu is not None:
                    figures |= {
                        f"{key}.{what}": value for what, value in _on_gpu(subject, key, arguments, figures).items()
                    }
                print(f"{time.perf_counter() - started:6.1f} s  {key}", file=sys.stderr)
        if gpu is not None:
            figures["real"] = _real(arguments.bundle, Path(folder) / "real")
    _print(figures, arguments)
    write_json(arguments.json, figures)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", choices=[*SPECS], help="(default: both; --quick: small)")
    arguments.add_argument("--batches", nargs="+", type=int, help="batch sizes (default: 1 32 128 1024; --quick: 1 32)")
    arguments.add_argument("--architecture", default="sm89", help="what to build for without a GPU (default: sm89)")
    arguments.add_argument("--seconds", type=float, help="how long each batch size is timed (default: 8; --quick: 1)")
    arguments.add_argument(
        "--bundle", type=Path, default=ROOT / "docs" / "examples" / "bundle",
        help="a bundle with embedded samples, to compare answers on (default: the quickstart's)",
    )  # fmt: skip
    found = arguments.parse_args()
    found.networks = found.networks or (["small"] if found.quick else [*SPECS])
    found.batches = found.batches or ([1, 32] if found.quick else [1, 32, 128, 1024])
    found.seconds = found.seconds or (1.0 if found.quick else 8.0)
    return found


def _versions() -> dict[str, str | None]:
    """Versions of what runs on the GPU; None where it is not installed."""
    import torch

    from isoform.runtime.engines.tensorrt.nvrtc import nvrtc_version
    from isoform.runtime.engines.tensorrt.products import PRODUCTS, find_product

    found: dict[str, str | None] = {
        "torch": torch.__version__,
        "nvrtc": None,
        "driver": None,
        **dict.fromkeys(PRODUCTS),
    }
    with contextlib.suppress(IsoformError):
        found["nvrtc"] = nvrtc_version()
    for name in PRODUCTS:
        with contextlib.suppress(IsoformError):
            found[name] = find_product(name).version
    with contextlib.suppress(OSError):
        found["driver"] = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    return found


def _on_gpu(subject, key, arguments, figures) -> dict[str, float]:
    """All figures of one network in one precision."""
    from bench.gpu.contenders import Contenders  # here: it needs the whole of TensorRT

    found: dict[str, float] = {}
    with Device() as device, device.current():
        try:
            contenders = Contenders(subject, device)
        except IsoformError as problem:
            figures["reasons"][key] = str(problem)
            return found
        figures["reasons"] |= {f"{key}.{way}": reason for way, reason in contenders.reasons.items()}
        try:
            for batch in arguments.batches:
                try:  # what goes wrong with one size must not cost the others
                    measured = contenders.running(batch, seconds=arguments.seconds)
                except (IsoformError, AssertionError, RuntimeError) as problem:
                    figures["reasons"][f"{key}.b{batch}"] = " ".join(str(problem).split())[:300]
                    continue
                found |= {f"b{batch}.{what}": value for what, value in measured.items()}
            found |= contenders.swaps(repeats=200 if arguments.quick else 2000)
        finally:
            contenders.close()
    return found


def _real(bundle: Path, folder: Path) -> dict[str, object]:
    """What a compilation for this GPU reports of a trained bundle, in every precision."""
    import shutil

    from isoform.compile.build import compile_bundle
    from isoform.compile.tensorrt.target import Target
    from isoform.runtime.engines.tensorrt.products import find_product

    found: dict[str, object] = {}
    for precision in ("fp32", "fp16", "int8"):
        shutil.copytree(bundle, folder / precision)
        try:
            target = Target(product=find_product().name, precision=precision, tasks=True)
            found[precision] = compile_bundle(folder / precision, target=target)["tensorrt"]["verified"]
        except IsoformError as problem:
            found[precision] = {"reason": str(problem)}
    return found


def _print(figures, arguments) -> None:
    where = figures["gpu"] or f"no GPU: built for {arguments.architecture}"
    title = f"TensorRT, {where}, {figures['date']}"
    networks = [f"{name}.{precision}" for name in arguments.networks for precision in ("fp32", "fp16")]
    rows = {key.split(".", 2)[2]: None for key in figures if key.rsplit(".", 1)[0].split(".")[0] in SPECS}
    print_table(
        title,
        ["figure", *networks],
        [[row, *(_shown(figures.get(f"{name}.{row}")) for name in networks)] for row in rows],
    )
    real = figures.get("real", {})
    answers = [
        [precision, task, way, f"{told['gap']:.0e}", f"{100 * told['agreement']:.2f} %", f"{100 * told['top1_after']:.2f} %"]
        for precision, found in real.items() for task, ways in found.get("tasks", {}).items() for way, told in ways.items()
    ]  # fmt: skip
    if answers:
        print_table(
            "real samples, beside ONNX Runtime",
            ["precision", "task", "run by", "difference", "same answers", "top-1"],
            answers,
        )
    figures["reasons"] |= {f"real.{key}": found["reason"] for key, found in real.items() if "reason" in found}
    for what, reason in figures["reasons"].items():
        print(f"{what}: {reason}")
    if figures["gpu"] is None:
        print("no GPU here: nothing of speed was measured; run this command on a machine with one")


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
