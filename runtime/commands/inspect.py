"""``isoform inspect``: what an artefact is, in about ten lines for a person, or all that is in it as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from isoform.runtime.commands.inspecting.facts import described, is_folder_of_signatures, opened
from isoform.runtime.commands.inspecting.signatures import (
    read_folder,
    signature_json,
    signature_lines,
    signatures_json,
    signatures_lines,
)
from isoform.runtime.errors import UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.samples.names import text_of

__all__ = ["add_arguments_inspect", "run_inspect"]


def add_arguments_inspect(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform inspect``'s arguments."""
    parser.add_argument(
        "path",
        type=Path,
        help="a bundle directory, a signature, a folder of signatures, a templates or checkpoint file, an .onnx file, or a JSON report",
    )
    parser.add_argument("--bundle", type=Path, help="the bundle of a signature, for what it inherits and its distance to the base")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.epilog = "example:\n  isoform inspect bundle/"
    parser.epilog += "\n  isoform inspect me.safetensors --bundle bundle/"


def run_inspect(arguments: argparse.Namespace) -> int:
    """Describe an artefact on stdout; returns 2 if some files of a folder cannot be read, which are named on stderr."""
    path, bad = arguments.path, dict[str, str]()
    bundle = None if arguments.bundle is None else Bundle.load(arguments.bundle)
    if is_folder_of_signatures(path):
        bundle = bundle or _around(path)
        signatures, bad = read_folder(path, bundle=bundle)
        if arguments.json:
            print(json.dumps(signatures_json(signatures, bundle=bundle), indent=2, ensure_ascii=False))
        else:
            print("\n".join(signatures_lines(signatures, folder=text_of(path), bundle=bundle)))
    else:
        found = opened(path)
        if bundle is not None and not isinstance(found, Signature):
            raise UsageError(f"--bundle is the bundle of a signature, but {path} is none; leave it out")
        if arguments.json:
            told = signature_json(found, bundle=bundle) if isinstance(found, Signature) else described(found)
            print(json.dumps(told, indent=2, ensure_ascii=False))
        else:
            print("\n".join(_lines(found, path, bundle)))
    for problem in bad.values():
        print(f"isoform inspect: {problem}", file=sys.stderr)
    return 2 if bad else 0


def _lines(found: Bundle | Signature | dict[str, Any], path: Path, bundle: Bundle | None) -> list[str]:
    if isinstance(found, Signature):
        return signature_lines(found, name=text_of(path), bundle=bundle)
    if isinstance(found, Bundle):
        from isoform.runtime.commands.inspecting.bundles import bundle_lines

        return bundle_lines(found)
    from isoform.runtime.commands.inspecting.others import other_lines

    return other_lines(found, name=text_of(path))


def _around(folder: Path) -> Bundle | None:
    """Return the bundle that a folder of signatures is a part of, if there is one."""
    above = [*folder.absolute().parents][:2]
    return next((Bundle.load(place) for place in above if (place / "bundle.json").is_file()), None)
