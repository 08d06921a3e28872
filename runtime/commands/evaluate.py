"""``isoform evaluate``: how good signatures are on labelled samples."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoform.runtime.commands.opened import add_engine_arguments, open_runtime
from isoform.runtime.errors import UsageError
from isoform.runtime.samples.account import plural
from isoform.runtime.samples.names import text_of
from isoform.runtime.tables import aligned, cut

if TYPE_CHECKING:
    from isoform.runtime.commands.evaluation import Evaluation
    from isoform.runtime.formats.signature import Signature
    from isoform.runtime.runtime import Runtime

__all__ = ["add_arguments_evaluate", "run_evaluate"]

ROWS = 12
"""Rows of a table of groups or classes, at most; the worst come first."""
NAME = 30
"""Width of a name in a table."""


def add_arguments_evaluate(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform evaluate``'s arguments."""
    parser.add_argument("bundle", type=Path, help="a compiled bundle")
    parser.add_argument(
        "--data", type=Path, required=True,
        help="labelled samples, as for 'isoform personalize': a folder with one subfolder per label, a table with a column 'label', or an .npz",
    )  # fmt: skip
    parser.add_argument(
        "--signature", type=Path, action="append", default=[], metavar="FILE", help="a signature file; may be repeated"
    )  # fmt: skip
    parser.add_argument(
        "--task", action="append", default=[], help="a task's base signature; may be repeated (default: those that know the labels)"
    )  # fmt: skip
    parser.add_argument("--plot", type=Path, help="where to draw the confusion matrices: .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of tables")
    parser.add_argument(
        "--skip-short", action="store_true", help="leave out classes whose recordings are all shorter than a window (default: report an error)"
    )  # fmt: skip
    add_engine_arguments(parser)
    parser.epilog = "example:\n  isoform evaluate bundle/ --data my-digits/ --signature me.safetensors"
    parser.epilog += "\n  isoform evaluate bundle/ --data my-digits/ --task plain --plot confusion.png"


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate, and print tables, or JSON, on stdout."""
    from isoform.runtime.commands.evaluation import evaluated
    from isoform.runtime.learn.labels import label_indices
    from isoform.runtime.samples.labelled import read_labelled

    if arguments.plot is not None:
        from isoform.runtime.commands.figures import confusions  # before the work: it needs matplotlib

        confusions.check(arguments.plot)
    with open_runtime(arguments) as runtime:
        chosen = _given(runtime, arguments)
        takes = [runtime.input_of(signature.task) for signature in chosen.values()] or [runtime.input_of()]
        if any(one != takes[0] for one in takes):
            raise UsageError("the signatures' tasks have different inputs; evaluate them in separate calls")
        data = read_labelled(
            arguments.data, takes=takes[0], skip_short=arguments.skip_short, reading=runtime.bundle.reading
        )
        print(data.account.sentence(), file=sys.stderr)
        chosen = chosen or _fitting(runtime, data.labels, takes[0], where=arguments.data)
        found: dict[str, tuple[Signature, Evaluation]] = {}
        for name, signature in chosen.items():
            labels = runtime.labels(signature)
            truth = label_indices(list(data.labels), labels, samples=len(data.x), several=False)
            logits = runtime.predict(data.x, signature)
            found[name] = signature, evaluated(logits, truth, labels=labels, groups=data.groups)
    if arguments.json:
        told = {
            name: {"digest": signature.digest, "task": signature.task, **result.to_json()}
            for name, (signature, result) in found.items()
        }
        print(json.dumps({"data": data.account.to_json(), "signatures": told}))
    else:
        print("\n\n".join(_text(found, data.unit)))
    if arguments.plot is not None:
        confusions.draw({name: result for name, (_, result) in found.items()}, arguments.plot)


def _given(runtime: Runtime, arguments: argparse.Namespace) -> dict[str, Signature]:
    """Return name → signature of those that the flags name."""
    found = {task: runtime.signature(task) for task in arguments.task}
    for path in arguments.signature:
        name = text_of(path.stem)
        if name in found:
            name = text_of(path)
        if name in found:
            raise UsageError(f"{name} is given twice; name each signature once")
        found[name] = runtime.bundle.chosen(task=None, file=path)
    return found


def _fitting(runtime: Runtime, labels: Sequence[str], takes: Any, *, where: Path) -> dict[str, Signature]:
    """Return the base signatures that know all labels. Raises ``UsageError`` if none does."""
    from isoform.runtime.samples.names import as_known

    found = {}
    for task in runtime.tasks:
        signature = runtime.signature(task)
        known = runtime.labels(signature)
        if runtime.input_of(task) == takes and set(as_known(list(labels), known)) <= set(known):
            found[task] = signature
    if not found:
        named = ", ".join(dict.fromkeys(labels))
        raise UsageError(
            f"no task knows the labels of {where}, which are {named:.100}; name a signature that does with --signature"
        )
    return found


def _text(found: Mapping[str, tuple[Signature, Evaluation]], unit: str) -> list[str]:
    """Return the tables: of all signatures, and of each one's classes and groups."""
    rows = [
        [name, f"{100 * one.accuracy:.2f} %", f"{100 * one.class_mean:.2f} %", f"{one.log_loss:.3f}", f"{100 * one.calibration_error:.1f} %",
         f"{len(signature.encode()):,}"]
        for name, (signature, one) in found.items()
    ]  # fmt: skip
    samples = next(iter(found.values()))[1].samples
    columns = ["signature", "accuracy", "class mean", "log loss", "calibration error", "bytes"]
    blocks = [f"{plural(samples, 'sample')}\n" + _table(columns, rows)]
    for name, (_, one) in found.items():
        classes = sorted(one.classes().items(), key=lambda item: item[1]["recall"])
        shown = [
            [label, f"{told['samples']:,}", f"{100 * told['recall']:.1f} %",
             "-" if told["precision"] is None else f"{100 * told['precision']:.1f} %",
             "" if told["taken_for"] is None else f"{cut(told['taken_for'][0], 18)} ({told['taken_for'][1]})"]
            for label, told in classes[:ROWS]
        ]  # fmt: skip
        left = (
            f"\n{plural(len(classes) - ROWS, 'class')} more, better than these; --json has all"
            if len(classes) > ROWS
            else ""
        )
        blocks.append(
            f"{cut(name, 60)}, by class\n"
            + _table(["class", "samples", "recall", "precision", "taken for"], shown)
            + left
        )
        if one.groups:
            groups = sorted(one.groups.items(), key=lambda item: item[1][1])
            lines = [[group, f"{count:,}", f"{100 * right:.1f} %"] for group, (count, right) in groups[:ROWS]]
            more = len(groups) - ROWS
            left = f"\n{more} {unit}s more, better than these; --json has all" if more > 0 else ""
            blocks.append(f"{cut(name, 60)}, by {unit}\n" + _table([unit, "samples", "accuracy"], lines) + left)
    return blocks


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    left = {0, len(columns) - 1} if columns[-1] == "taken for" else {0}
    return "\n".join(aligned(columns, [[cut(row[0], NAME), *row[1:]] for row in rows], left=left))
