"""``isoform compile``: complete a bundle with graphs that run anywhere ONNX Runtime does."""

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
        help="the --data folder that it was trained with, to verify on real samples; embedded data needs none",
    )
    parser.add_argument(
        "--tau",
        type=float,
        default=0.95,
        help="layers whose largest mixture weight reaches this become their template (default: 0.95)",
    )
    parser.add_argument(
        "--max-drop", type=float, default=0.5, help="points of accuracy that snapping may cost a task (default: 0.5)"
    )
    parser.epilog = "example:\n  isoform compile bundle/"


def run_compile(arguments: argparse.Namespace) -> None:
    """Compile in place; tables on stderr, a summary as JSON on stdout."""
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
