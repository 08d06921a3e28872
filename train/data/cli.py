"""``isoform data``: list and download data sets."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from isoform.runtime.extras import needs
from isoform.runtime.samples.names import text_of
from isoform.runtime.tables import aligned
from isoform.train.data.fetch import SOURCES, fetch
from isoform.train.data.unpack import unpack

__all__ = ["add_arguments_data", "run_data"]


def add_arguments_data(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform data``'s arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list the data sets that can be fetched")
    listed.add_argument("--json", action="store_true", help="print JSON")
    one = actions.add_parser("fetch", help="download a data set and verify its checksums", epilog="example:\n  isoform data fetch mnist --into data/",
                             formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    one.add_argument("name", help="a data set from 'isoform data list'")
    one.add_argument("--into", type=Path, default=Path("data"), help="parent of the data set's folder (default: data)")
    one.add_argument("--mirror", help="URL of a folder with the same files")
    other = actions.add_parser(
        "unpack", help="write images or sounds of a Hugging Face data set on disk to files in folders",
        epilog="example:\n  isoform data unpack beans/ -o photos/ --group plant", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    other.add_argument(
        "source", type=Path, help="what save_to_disk wrote, a folder of .parquet files, or one .parquet or .arrow file"
    )
    other.add_argument("-o", "--output", type=Path, required=True, help="the folder to make, with a folder per class")
    other.add_argument("--label", help="the column of labels (default: that with names of classes, or else label)")
    other.add_argument("--group", help="a column whose samples are held out together, such as a person")
    parser.epilog = "example:\n  isoform data fetch mnist --into data/"


def run_data(arguments: argparse.Namespace) -> None:
    """Run one action; print JSON on stdout, but a list as a table."""
    if arguments.action == "list":
        if arguments.json:
            told = {name: {"about": source.about, "data": source.format} for name, source in SOURCES.items()}
            print(json.dumps(told, indent=2, ensure_ascii=False))
        else:
            rows = [(name, source.about, source.format) for name, source in SOURCES.items()]
            print("\n".join(aligned(("name", "what it is", "data"), rows, left=range(3))))
        return
    if arguments.action == "unpack":
        with needs("isoform data", extra="train"):
            from rich.console import Console
            from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("writing files")
            counts = unpack(
                arguments.source, arguments.output, label=arguments.label, group=arguments.group,
                progress=lambda done, of: bar.update(task, completed=done, total=of),
            )  # fmt: skip
        print(json.dumps({"folder": text_of(arguments.output), "files": counts}))
        return
    if arguments.name in SOURCES:
        print(f"fetching {arguments.name}: {SOURCES[arguments.name].about}", file=sys.stderr)
    files = fetch(arguments.name, into=arguments.into, mirror=arguments.mirror)
    print(json.dumps({"files": [str(file) for file in files]}))
