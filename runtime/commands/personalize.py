"""``isoform personalize``: labelled samples from files in, a signature file out."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isoform.runtime.commands.bar import Bar
from isoform.runtime.commands.opened import add_engine_arguments, open_runtime
from isoform.runtime.errors import UsageError
from isoform.runtime.samples.names import text_of

if TYPE_CHECKING:
    from isoform.runtime.learn.outcome import Report

__all__ = ["add_arguments_personalize", "run_personalize"]


def add_arguments_personalize(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform personalize``'s arguments."""
    parser.add_argument("bundle", type=Path, help="a compiled bundle")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="labelled samples: a folder with one subfolder of images or recordings (.csv, .tsv) per label, a table with a column 'label', or an .npz; "
        "groups of samples (recordings, subfolders of a label's, a column 'group') are held out together",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the signature file to write")
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--task", help="the base signature to start from (default: the one with the lowest loss on the samples)"
    )
    who.add_argument("--signature", type=Path, help="a signature file to start from instead")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--parts",
        help="what to train, separated by commas; a mixture bundle has mixture, delta, coefficients, bn, head "
        "(default: delta,coefficients, a file of less than 1 KiB)",
    )
    size.add_argument(
        "--full",
        action="store_true",
        help="train whole layers instead, of a mixture mixture,bn,head: a file of 10 kB or more (default with --new-labels)",
    )
    parser.add_argument(
        "--statistics",
        action=argparse.BooleanOptionalAction,
        help="whether BN statistics may be re-estimated from the samples (default: if bn or coefficients are trained)",
    )
    parser.add_argument(
        "--new-labels",
        action="store_true",
        help="learn a new logits layer for the labels of the data",
    )
    parser.add_argument(
        "--skip-short",
        action="store_true",
        help="leave out classes whose recordings are all shorter than a window (default: report an error)",
    )
    parser.add_argument("--float16", action="store_true", help="store the numbers as float16, in half the bytes")
    parser.add_argument(
        "--steps", type=int, default=300, help="maximum number of steps per fit (default: 300; most fits stop earlier)"
    )
    parser.add_argument("--seconds", type=float, help="time limit; keeps the best result so far, as Ctrl-C does")
    parser.add_argument("--seed", type=int, default=0, help="random seed of batches and folds (default: 0)")
    add_engine_arguments(parser)
    parser.epilog = "example:\n  isoform personalize bundle/ --data my-digits/ -o me.safetensors\n"
    parser.epilog += "  isoform predict bundle/ digit.png --signature me.safetensors"


def run_personalize(arguments: argparse.Namespace) -> int:
    """Fit, write the file, and print the scores as JSON on stdout. After Ctrl-C, writes the best result so far and returns 130."""
    from isoform.runtime.formats.inheritance import reduced
    from isoform.runtime.learn.labels import check_numbers
    from isoform.runtime.samples.labelled import read_labelled

    if arguments.seed < 0:
        raise UsageError(f"--seed is {arguments.seed}, but 0 or more was expected")
    if not arguments.output.absolute().parent.is_dir():
        raise UsageError(f"{arguments.output.parent} is not a folder; create it first")  # before minutes of fitting
    with open_runtime(arguments) as runtime, Bar() as bar:

        def shown(report: Report) -> None:
            text = f"step {report.step} of at most {report.steps}  loss {report.loss:.3f}  best {report.best:.3f}"
            bar.show(report.step, report.steps, text)

        chosen = arguments.task is not None or arguments.signature is not None
        start = runtime.bundle.chosen(task=arguments.task, file=arguments.signature) if chosen else None
        data = read_labelled(
            arguments.data,
            takes=runtime.input_of(None if start is None else start.task),
            skip_short=arguments.skip_short,
            reading=runtime.bundle.reading,
        )
        # sorted, so that the order of classes does not depend on the order of files
        classes = sorted(set(data.labels)) if arguments.new_labels else None
        if data.numbers and classes is None:
            for base in [start] if start is not None else map(runtime.signature, runtime.tasks):
                check_numbers(data.labels, runtime.labels(base), where=str(arguments.data))
        parts = arguments.parts.split(",") if arguments.parts is not None else None
        if arguments.full:
            parts = runtime.bundle.kind.full_moves
        outcome = runtime.fit(
            data.x, np.array(data.labels), start, parts=parts, statistics=arguments.statistics,
            classes=classes, groups=data.groups, seed=arguments.seed, steps=arguments.steps, seconds=arguments.seconds, progress=shown,
        )  # fmt: skip
        signature = outcome.signature
        if signature.digest in runtime.bundle.bases():  # unchanged: the file refers to the base instead of copying it
            signature = reduced(runtime.bundle, signature)
    if arguments.float16:
        # the parent as it was: replace() would name the float32 signature, which is never written
        signature = signature.replace(precision="float16", parent=signature.parent)
    signature.save(arguments.output)
    print(f"{text_of(arguments.data)}: {data.account.sentence()}", file=sys.stderr)
    print(f"{arguments.output}: {outcome.sentence(unit=data.unit)}", file=sys.stderr)
    scores = {
        when: {
            "loss": round(score.loss, 6) if math.isfinite(score.loss) else None,  # JSON has no infinity
            "accuracy": round(score.accuracy, 6),
        }
        for when, score in (("before", outcome.before), ("after", outcome.after))
    }
    change = None if outcome.change is None else [round(end, 6) for end in outcome.change]
    summary = {
        "signature": text_of(arguments.output), "digest": signature.digest, "size_bytes": len(signature.encode()),
        "start": outcome.start.digest, "task": signature.task, "samples": len(data.labels), "improved": outcome.improved,
        "held_back": outcome.held_back, "held_back_groups": outcome.held_back_groups,
        "classes_in_one_group": outcome.classes_in_one_group, **scores, "accuracy_change": change, "steps": outcome.steps, "parts": list(outcome.parts),
        "interpolation": outcome.interpolation, "statistics": outcome.statistics,
        "data": data.account.to_json(), "stopped": outcome.stopped or None, "seconds": round(outcome.seconds, 3),
    }  # fmt: skip
    print(json.dumps(summary))
    return 130 if outcome.stopped == "ctrl-c" else 0
