"""Commands in processes that have everything imported before they begin, so that what is killed is their work and not Python's start."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.context import ForkServerContext

__all__ = ["begun", "prepared"]

IMPORTS = [
    "isoform.train.cli", "isoform.train.loop", "isoform.compile.build", "isoform.compile.report", "scipy.ndimage", "torch._inductor.config",
]  # fmt: skip
"""What training and compiling import, early and late."""


def prepared() -> ForkServerContext:
    """Processes that are forked from one that has imported all of it; there is one such server for each process of pytest."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *IMPORTS])
    return context


def begun(words: list[str]) -> multiprocessing.process.BaseProcess:
    """A command line, begun in such a process. Its exit code is the command's; it says nothing."""
    process = prepared().Process(target=_run, args=(words,))
    process.start()
    return process


def _run(words: list[str]) -> None:
    from isoform.runtime.cli import main

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    sys.exit(main(words))
