"""``isoform predict``: samples from files in, a JSON line or a row of CSV for each out."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from isoform.runtime.arrays import softmax
from isoform.runtime.commands.bar import Bar
from isoform.runtime.commands.opened import add_engine_arguments, open_runtime
from isoform.runtime.errors import UsageError
from isoform.runtime.formats import files
from isoform.runtime.samples.names import as_known, text_of

if TYPE_CHECKING:
    from isoform.runtime.arrays import Array
    from isoform.runtime.formats.signature import Signature
    from isoform.runtime.samples.streamed import Place

__all__ = ["add_arguments_predict", "run_predict"]


class _Sink(Protocol):
    def write(self, text: str, /) -> object: ...


def add_arguments_predict(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform predict``'s arguments."""
    parser.add_argument("bundle", type=Path, help="a compiled bundle")
    parser.add_argument(
        "samples",
        type=Path,
        nargs="+",
        metavar="SAMPLES",
        help="image and sound files, folders of images, sounds or recordings, tables (.csv, .tsv, .parquet), arrays (.npz, .npy): "
        "all that personalize and adapt take; "
        "images are resized and converted to the bundle's size and channels",
    )
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--task", help="the task whose base signature to use; optional if the bundle has one task")
    who.add_argument("--signature", type=Path, help="a signature file to use instead of a base signature")
    parser.add_argument(
        "--format", choices=("jsonl", "csv"), default="jsonl", help="a JSON object per line, or CSV (default: jsonl)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="a file to write to, replaced when all is done (default: standard output)"
    )
    add_engine_arguments(parser)
    parser.add_argument("--top", type=int, default=3, help="number of labels to list per sample (default: 3)")
    parser.epilog = "example:\n  isoform predict bundle/ digit.png --task plain"
    parser.epilog += "\n  isoform predict bundle/ recordings/ --format csv -o found.csv"


def run_predict(arguments: argparse.Namespace) -> None:
    """Predict on samples; prints a line for each, in the order given, while reading."""
    from isoform.runtime.batches import slice_samples
    from isoform.runtime.samples.account import Account
    from isoform.runtime.samples.streamed import read_chunks

    if arguments.top < 1:
        raise UsageError(f"--top is {arguments.top}, but 1 or more was expected")
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        raise UsageError(f"{arguments.output.parent} is not a folder; create it first")
    account, done = Account(), 0
    with open_runtime(arguments) as runtime:
        signature = runtime.bundle.chosen(task=arguments.task, file=arguments.signature)
        labels, takes = runtime.labels(signature), runtime.input_of(signature.task)
        # as many samples in memory as the predictor runs at once
        chunk = slice_samples(runtime.bundle.spec, signature.task, takes.largest)
        found = read_chunks(
            arguments.samples, takes=takes, account=account, chunk=chunk, reading=runtime.bundle.reading
        )
        with _sink(arguments.output) as sink, Bar() as bar:
            whole = "image" if runtime.bundle.reading.sound is None else "source"
            kind = _Csv if arguments.format == "csv" else _Json
            lines = kind(sink, labels, signature, top=arguments.top, whole=whole)
            for x, places, given in found:
                rows = softmax(runtime.predict(x, signature))
                for place, label, row in zip(places, as_known(given, labels), rows, strict=True):
                    lines.write(place, label, row)
                done += len(x)
                if arguments.output is not None:
                    bar.say(f"{done:,} samples")
    print(account.sentence(), file=sys.stderr)


@contextlib.contextmanager
def _sink(path: Path | None) -> Iterator[_Sink]:
    """Open the output."""
    if path is None:
        yield sys.stdout
        return
    with files.replace_file(path) as file:
        yield _Encoded(file)


class _Encoded:
    """A binary file that takes text."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode("utf-8", "backslashreplace"))


class _Lines:
    """Lines about samples.

    Args:
        sink: Where they go.
        labels: Class names.
        signature: What predicts.
        top: Number of labels to list.
        whole: What a file is that is a single sample: ``image``, or ``source`` of anything else.
    """

    def __init__(self, sink: _Sink, labels: Sequence[str], signature: Signature, *, top: int, whole: str) -> None:
        self.sink, self.labels, self.signature = sink, labels, signature
        self.top, self.whole = min(top, len(labels)), whole

    def best(self, row: Array) -> list[tuple[str, float]]:
        """Return the most probable labels, with their probabilities, rounded."""
        # stable: equal probabilities are listed in the order of the classes
        order = np.argsort(-row, kind="stable")[: self.top]
        return [(self.labels[i], round(float(row[i]), 6)) for i in order]


class _Json(_Lines):
    """JSON lines: an image is named as such, other samples by their file, and window or row."""

    def write(self, place: Place, given: str, row: Array) -> None:
        best = self.best(row)
        where = {"window": place.window, "row": place.row}
        said: dict[str, Any] = {self.whole if place.row is None else "source": text_of(place.path)}
        said |= {name: number for name, number in where.items() if number is not None}
        said |= {"label": best[0][0], "top": [{"label": label, "probability": share} for label, share in best]}
        said |= {"given": given} if given else {}
        self.sink.write(json.dumps({**said, "task": self.signature.task, "signature": self.signature.digest}) + "\n")


class _Csv(_Lines):
    """CSV with a header; a cell is empty where a sample has no window, row or given label."""

    def __init__(self, sink: _Sink, labels: Sequence[str], signature: Signature, *, top: int, whole: str) -> None:
        super().__init__(sink, labels, signature, top=top, whole=whole)
        self._writer, self._begun = csv.writer(sink, lineterminator="\n"), False

    def write(self, place: Place, given: str, row: Array) -> None:
        # not before: of an error in the first file nothing is printed
        if not self._begun:
            others = [f"{name}_{rank}" for rank in range(2, self.top + 1) for name in ("label", "probability")]
            self._writer.writerow(["source", "window", "row", "given", "label", "probability", *others])
            self._begun = True
        cells = [cell for pair in self.best(row) for cell in pair]
        self._writer.writerow([text_of(place.path), place.window, place.row, given, *cells])
