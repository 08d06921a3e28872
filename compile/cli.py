"""``isoform compile``: add graphs to a bundle that run wherever ONNX Runtime does."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from isoform.runtime.samples.names import text_of

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
        help="largest loss of accuracy by snapping, in points per task (default: 0.5)",
    )
    parser.epilog = "example:\n  isoform compile bundle/"


def run_compile(arguments: argparse.Namespace) -> None:
    """Compile in place; print tables on stderr and a summary as JSON on stdout."""
    # Imported here, so that --help needs neither torch nor onnx.
    from isoform.compile.build import compile_bundle
    from isoform.compile.report import print_report

    content = compile_bundle(
        arguments.bundle, data=arguments.data, tau=arguments.tau, max_drop_points=arguments.max_drop,
        progress=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    print_report(content)
    print(
        json.dumps(
            {"compiled": text_of(arguments.bundle / "compiled"), "mean_top1_percent": content["mean_top1_percent"]}
        )
    )
