"""``isoform compile``: add graphs to a bundle that run wherever ONNX Runtime does."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from isoform.runtime.errors import UsageError
from isoform.runtime.samples.names import text_of

if TYPE_CHECKING:
    from isoform.compile.tensorrt.target import Target

__all__ = ["add_arguments_compile", "run_compile"]


def add_arguments_compile(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform compile``'s arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle from 'isoform train'")
    parser.add_argument(
        "--data",
        type=Path,
        help="the --data folder of the training run, to verify on real samples; not needed for embedded data",
    )
    parser.add_argument(
        "--tau",
        type=float,
        default=0.95,
        help="snap a layer to one template if its largest mixture weight is at least this (default: 0.95)",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.5,
        help="largest loss of accuracy by snapping, and by a task's engine in fp16 or int8, in points per task (default: 0.5)",
    )
    engines = parser.add_argument_group("TensorRT")
    engines.add_argument(
        "--target",
        choices=("onnx", "tensorrt", "tensorrt-rtx"),
        default="onnx",
        help="also write TensorRT's graphs and build engines, for the GPU at hand or --architectures (default: onnx alone)",
    )
    engines.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="numbers of TensorRT's engines; int8 for those of --tasks, and fp16 for users then (default: fp32)",
    )
    engines.add_argument(
        "--tasks",
        action="store_true",
        help="also build an engine of every task's own, its weights constants in it: fast, for base signatures alone",
    )
    engines.add_argument(
        "--architectures",
        metavar="NAMES",
        help="GPU architectures to build for without such a GPU, such as sm89,sm120; tensorrt-rtx only",
    )
    engines.add_argument(
        "--batch",
        metavar="USUAL,LARGEST",
        default="32,1024",
        help="batch size that engines are optimised for, and the largest (default: 32,1024)",
    )
    engines.add_argument(
        "--classes", type=int, help="classes that a user may have (default: those of the task that has most)"
    )
    engines.add_argument(
        "--shared-weights",
        choices=("in", "refit", "stripped"),
        default="in",
        help="weights that all users share: in the engines; refit: also to be replaced by new templates' without a build; stripped: left out of "
        "files, and put in when an engine is loaded (default: in; the others need TensorRT 10 and a GPU to build)",
    )
    engines.add_argument(
        "--no-engines", action="store_true", help="write TensorRT's graphs alone; the device builds the engines"
    )
    parser.epilog = "example:\n  isoform compile bundle/\n  isoform compile bundle/ --target tensorrt-rtx --architectures sm89,sm120"


def run_compile(arguments: argparse.Namespace) -> None:
    """Compile in place; print tables on stderr and a summary as JSON on stdout."""
    # Imported here, so that --help needs neither torch nor onnx.
    from isoform.compile.build import compile_bundle
    from isoform.compile.report import report_lines

    content = compile_bundle(
        arguments.bundle, data=arguments.data, tau=arguments.tau, max_drop_points=arguments.max_drop,
        target=_target(arguments), progress=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    print("\n".join(report_lines(content)), file=sys.stderr)
    print(
        json.dumps(
            {"compiled": text_of(arguments.bundle / "compiled"), "mean_top1_percent": content["mean_top1_percent"]}
        )
    )


def _target(arguments: argparse.Namespace) -> Target | None:
    """Return the target TensorRT; None for ONNX files alone. Raises ``UsageError`` if a flag is malformed or needs the target."""
    names = tuple(filter(None, (arguments.architectures or "").split(",")))
    if arguments.target == "onnx":
        flags = {
            "--architectures": names, "--no-engines": arguments.no_engines, "--classes": arguments.classes is not None,
            f"--precision {arguments.precision}": arguments.precision != "fp32", "--tasks": arguments.tasks,
            f"--shared-weights {arguments.shared_weights}": arguments.shared_weights != "in",
        }  # fmt: skip
        given = [flag for flag, value in flags.items() if value]
        if given:
            raise UsageError(f"{given[0]} is for TensorRT's engines; add --target tensorrt or --target tensorrt-rtx")
        return None
    from isoform.compile.tensorrt.target import Target
    from isoform.runtime.engines.tensorrt.builder import BuildOptions

    try:
        usual, largest = map(int, arguments.batch.split(","))
    except ValueError:
        raise UsageError(
            f"--batch is {arguments.batch!r}, but two numbers with a comma were expected, such as 32,1024"
        ) from None
    return Target(
        product=arguments.target, precision=arguments.precision, architectures=names, classes=arguments.classes,
        options=BuildOptions(usual=usual, largest=largest, shared=arguments.shared_weights), engines=not arguments.no_engines, tasks=arguments.tasks,
    )  # fmt: skip
