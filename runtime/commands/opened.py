"""Command-line arguments for opening a bundle, shared by all commands that predict."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from isoform.runtime.engines.names import AUTO, ENGINES

if TYPE_CHECKING:
    from isoform.runtime.runtime import Runtime

__all__ = ["add_engine_arguments", "add_engine_choice", "open_runtime"]


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``, ``--engine`` and ``--provider``."""
    parser.add_argument(
        "--threads", type=int, default=1, help="number of threads, 0: let ONNX Runtime choose (default: 1)"
    )
    add_engine_choice(parser)


def add_engine_choice(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine`` and ``--provider`` alone, for ``isoform serve``, whose ``--threads`` are those of requests."""
    parser.add_argument(
        "--engine",
        default="auto",
        help=f"engine that runs the network: {', '.join((AUTO, *ENGINES))} (default: auto)",
    )
    parser.add_argument(
        "--provider", action="append", metavar="NAME",
        help="an ONNX Runtime execution provider, such as CUDAExecutionProvider; repeat for a fallback (default: the CPU)",
    )  # fmt: skip


def open_runtime(arguments: argparse.Namespace) -> Runtime:
    """Open ``arguments.bundle`` with these arguments. Raises as ``Runtime.open``."""
    from isoform.runtime.runtime import Runtime  # not at the top: --help must not load ONNX Runtime

    return Runtime.open(
        arguments.bundle, threads=arguments.threads, engine=arguments.engine, providers=arguments.provider
    )
