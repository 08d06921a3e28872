"""Arguments that say how a bundle is run, the same for every command that predicts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isoform.runtime.runtime import Runtime

__all__ = ["add_engine_arguments", "open_runtime"]


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``, ``--engine`` and ``--provider``."""
    parser.add_argument("--threads", type=int, default=1, help="threads, 0 for ONNX Runtime's choice (default: 1)")
    parser.add_argument(
        "--engine", default="auto", help="auto, onnx, sessions or reference: what runs the network (default: auto)"
    )
    parser.add_argument(
        "--provider", action="append", metavar="NAME",
        help="an execution provider of ONNX Runtime, such as CUDAExecutionProvider; again for one to fall back to (default: the CPU)",
    )  # fmt: skip


def open_runtime(arguments: argparse.Namespace) -> Runtime:
    """Open ``arguments.bundle`` as these say; errors as ``Runtime.open``."""
    from isoform.runtime.runtime import Runtime  # here, not above: --help starts without ONNX Runtime

    return Runtime.open(
        arguments.bundle, threads=arguments.threads, engine=arguments.engine, providers=arguments.provider
    )
