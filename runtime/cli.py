"""The command ``isoform``: parses, imports the one stage that the verb needs, runs it, and prints every error on one line.

Stages above the runtime are imported by name at run time, so that ``isoform --help`` is instant and works without torch.
JSON goes to stdout, messages for people to stderr. Exit codes: 0 success, 2 usage error or bad input, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from typing import NoReturn

from isoform.runtime.errors import IsoformError
from isoform.runtime.extras import missing

__all__ = ["main"]

VERBS = {
    "train": ("isoform.train.cli", "train", "learn shared templates and one signature per task"),
    "compile": ("isoform.compile.cli", "train", "fold signatures, export ONNX, verify, report"),
    "export": ("isoform.compile.export.cli", "export", "one signature as an ONNX file of its own, verified"),
    "predict": ("isoform.runtime.commands.predict", "", "predict on image files with any signature"),
    "personalize": (
        "isoform.runtime.commands.personalize",
        "",
        "fit a signature to a few labelled samples, on the device",
    ),
    "adapt": ("isoform.runtime.commands.adapt", "", "fit a signature to unlabelled samples, on the device"),
    "evaluate": ("isoform.runtime.commands.evaluate", "", "accuracy, confusions and calibration on labelled samples"),
    "inspect": ("isoform.runtime.commands.predict", "", "describe a bundle, signature or compiled file"),
    "figure": ("isoform.runtime.commands.figure", "figure", "draw a bundle's signatures side by side"),
    "serve": ("isoform.server.commands.serve", "server", "serve predictions over HTTP"),
    "key": ("isoform.server.commands.key", "server", "create, list and revoke the server's API keys"),
    "recipe": ("isoform.train.suggest.cli", "train", "list recipes, and write one that fits your own data"),
    "data": ("isoform.train.data.cli", "train", "list and download data sets"),
}
"""Verb → module with ``add_arguments_<verb>(parser)`` and ``run_<verb>(arguments)``, the pip extra that it needs, one line of help."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that prints errors on one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        print(f"{self.prog}: {message}; see '{self.prog} --help'", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments after ``isoform``; None for those of the process.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # labels and file names may have characters that the terminal cannot encode
            stream.reconfigure(errors="backslashreplace")
    width = max(map(len, VERBS))
    parser = Parser(
        prog="isoform",
        description="One set of shared template blocks; a signature of a few hundred bytes for every user, task and domain.",
        epilog="verbs:\n" + "\n".join(f"  {verb:{width}}  {text}" for verb, (_, _, text) in VERBS.items())
        + "\n\nexample:\n  isoform train digits -o bundle/ && isoform compile bundle/ && isoform inspect bundle/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="one of the verbs below; see 'isoform VERB --help'")
    # left to the parser of the verb, so that this one needs no stage
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help=argparse.SUPPRESS)
    chosen = parser.parse_args(words)
    try:
        return _run(chosen.verb, chosen.rest)
    except IsoformError as problem:
        print(f"isoform {chosen.verb}: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"isoform {chosen.verb}: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `isoform predict … | head`: not an error
        sys.stderr.close()  # else the interpreter reports the pipe once more when it flushes at exit
        return 0
    except OSError as problem:
        print(
            f"isoform {chosen.verb}: {problem.filename or 'the system'}: {problem.strerror or problem}", file=sys.stderr
        )
        return 2
    except MemoryError:
        print(f"isoform {chosen.verb}: not enough memory; make the network or the data smaller", file=sys.stderr)
        return 2


def _run(verb: str, words: list[str]) -> int:
    module_name, extra, text = VERBS[verb]
    # OpenBLAS reads this when numpy is imported, so it must be set before the stage is. Our matrix products in numpy are small: its
    # threads would only compete with ONNX Runtime's, and the last bits of what compiling measures would depend on their number.
    if verb in ("personalize", "adapt", "serve", "compile"):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # GNU OpenMP's threads wait for each other in loops that take the processor from the one that is waited for, if another process is
    # busy: training by two threads then took 15 times as long (docs/log.md, 2026-11-27). Read when torch is imported.
    if verb in ("train", "compile") and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        module = importlib.import_module(module_name)
        parser = Parser(prog=f"isoform {verb}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        getattr(module, f"add_arguments_{verb}")(parser)
        arguments = parser.parse_args(words)
        result = getattr(module, f"run_{verb}")(arguments)
    except ModuleNotFoundError as problem:
        if not extra:  # a base dependency is missing: the installation is broken, and no extra would repair it
            raise
        raise missing(problem, f"'isoform {verb}'", extra=extra) from None
    return int(result or 0)


class _Version(argparse.Action):
    """Print the installed version; the package's metadata is read only for ``--version``."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import importlib.metadata

        print(f"isoform {importlib.metadata.version('isoform')}")
        parser.exit()


if __name__ == "__main__":
    raise SystemExit(main())
