"""``isoform data``: list and download data sets."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from isoform.train.data.fetch import SOURCES, fetch

__all__ = ["add_arguments_data", "run_data"]


def add_arguments_data(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform data``'s arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="list the data sets that can be fetched")
    one = actions.add_parser("fetch", help="download a data set and verify its checksums", epilog="example:\n  isoform data fetch mnist --into data/",
                             formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    one.add_argument("name", help="a data set from 'isoform data list'")
    one.add_argument("--into", type=Path, default=Path("data"), help="parent of the data set's folder (default: data)")
    one.add_argument("--mirror", help="URL of a folder with the same files")
    parser.epilog = "example:\n  isoform data fetch mnist --into data/"


def run_data(arguments: argparse.Namespace) -> None:
    """Run one action; print JSON on stdout."""
    if arguments.action == "list":
        print(
            json.dumps(
                {name: {"about": source.about, "data": source.format} for name, source in SOURCES.items()},
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    if arguments.name in SOURCES:
        print(f"fetching {arguments.name}: {SOURCES[arguments.name].about}", file=sys.stderr)
    files = fetch(arguments.name, into=arguments.into, mirror=arguments.mirror)
    print(json.dumps({"files": [str(file) for file in files]}))
