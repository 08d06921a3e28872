"""``isoform adapt``: unlabelled samples from files in, a signature file out."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isoform.runtime.commands.bar import Bar
from isoform.runtime.commands.opened import add_engine_arguments, open_runtime
from isoform.runtime.errors import InputError, UsageError
from isoform.runtime.formats import files
from isoform.runtime.samples.account import plural
from isoform.runtime.samples.names import text_of

if TYPE_CHECKING:
    from isoform.runtime.adapt.history import Record
    from isoform.runtime.arrays import Array

__all__ = ["add_arguments_adapt", "run_adapt"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Batch:
    """What is kept of a batch. All figures come from these, so that after Ctrl-C none of them counts more batches than another."""

    rows: Array
    """Indices of its samples."""
    record: Record
    right_before: int
    """How many the start predicts right; 0 without labels."""
    right: int
    """How many were predicted right during adaptation; 0 without labels."""


def add_arguments_adapt(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform adapt``'s arguments."""
    from isoform.runtime.adapt.registry import METHODS, summaries

    parser.add_argument("bundle", type=Path, help="a compiled bundle")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="samples: a folder of images or of recordings (.csv, .tsv), a table, or an .npz; labels, if any, are only used to report the accuracy",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the signature file to write")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--task", help="the base signature to start from; optional if the bundle has one task")
    who.add_argument("--signature", type=Path, help="a signature file to start from instead")
    parser.add_argument("--method", default="auto", help="adaptation method, one of those below (default: auto)")
    parser.add_argument("--batch", type=int, default=128, help="samples per batch (default: 128)")
    parser.add_argument(
        "--in-order",
        action="store_true",
        help="keep the order of the files, as a stream (default: shuffle the samples)",
    )
    parser.add_argument(
        "--journal", type=Path, help="a folder that keeps every update, for rollback; a second run resumes there"
    )
    parser.add_argument(
        "--history", type=Path, help="a .json file with a record of every batch, which 'isoform figure' draws"
    )
    parser.add_argument(
        "--skip-short",
        action="store_true",
        help="leave out classes whose recordings are all shorter than a window (default: report an error)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the order and of the method (default: 0)")
    add_engine_arguments(parser)
    width = max(map(len, METHODS))
    parser.epilog = "methods:\n" + "".join(
        f"  {name:{width}}  {text}{' (default)' if name == parser.get_default('method') else ''}\n"
        for name, text in summaries().items()
    )
    parser.epilog += "\nexample:\n  isoform adapt bundle/ --data camera/ -o me.safetensors --history here.json\n"
    parser.epilog += "  isoform figure here.json -o here.png"


def run_adapt(arguments: argparse.Namespace) -> int:
    """Adapt, write the file, and print a summary as JSON on stdout. After Ctrl-C, undoes the batch in
    progress, writes the signature that the batches before it made, and returns 130.

    Raises:
        InputError: If most samples carry no content, or the result is worse than the start on these samples; nothing is written then.
        UsageError: If a flag is invalid.
    """
    # here, not at the top: --help must not wait for Pillow and safetensors
    from isoform.runtime.adapt.stream import adapt_batches
    from isoform.runtime.formats.inheritance import reduced
    from isoform.runtime.learn.labels import check_numbers
    from isoform.runtime.samples.names import as_known
    from isoform.runtime.samples.unlabelled import read_stream

    if arguments.seed < 0:
        raise UsageError(f"--seed is {arguments.seed}, but 0 or more was expected")
    if not 1 <= arguments.batch <= 4096:
        raise UsageError(f"--batch is {arguments.batch}, but 1 to 4096 was expected")
    # before minutes of adapting
    for path in (arguments.output, arguments.history):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path.parent} is not a folder; create it first")
    started, stopped = time.monotonic(), False
    with open_runtime(arguments) as runtime, Bar() as bar:
        start = runtime.bundle.chosen(task=arguments.task, file=arguments.signature)
        data = read_stream(
            arguments.data,
            takes=runtime.input_of(start.task),
            skip_short=arguments.skip_short,
            reading=runtime.bundle.reading,
        )
        names = runtime.labels(start)
        labels = None if data.labels is None else as_known(data.labels, names)
        if labels is not None and data.numbers:
            check_numbers(labels, names, where=str(arguments.data))
        known = labels is not None and set(labels) <= set(names)
        if labels is not None and not known:
            other = sorted(set(labels) - set(names))[0]
            data.account.note(f"label {other!r} is not one of the classes, so accuracy is not reported")
        adapter = runtime.adapter(start, method=arguments.method, seed=arguments.seed, directory=arguments.journal)
        before_all = adapter.signature.digest
        x = runtime.checked(data.x, start.task)
        expected, classes = (np.array(labels) if known else None), np.array(names)
        batches: list[_Batch] = []
        seed = None if arguments.in_order else arguments.seed
        try:
            for step in adapt_batches(adapter, x, batch=arguments.batch, seed=seed):
                right_before = right = 0
                if expected is not None:
                    both = (runtime.predict(x[step.rows], start), step.logits)
                    right_before, right = (int((classes[z.argmax(axis=1)] == expected[step.rows]).sum()) for z in both)
                batches.append(_Batch(step.rows, step.record, right_before, right))
                done = step.record.samples
                bar.show(done, len(x), f"{done:,} of {plural(len(x), 'sample')}")
        except KeyboardInterrupt:
            stopped = True
            # the batch in progress may have moved the signature already
            adapter.rollback(batches[-1].record.digest if batches else before_all)
        signature, done = adapter.signature, batches[-1].record.samples if batches else 0
        # judged on the samples that it has seen: after Ctrl-C the others say nothing about it
        if (
            done
            and (reason := adapter.refusal(x if done == len(x) else x[np.concatenate([one.rows for one in batches])]))
            is not None
        ):
            # a refused result must not be what the next run with this journal starts from
            if adapter.signature.digest != before_all:
                adapter.rollback(before_all) if before_all in adapter.digests else adapter.reset()
            raise InputError(
                f"adapting by {arguments.method} to {arguments.data}: {reason}; nothing was written; use images or recordings of the target "
                "domain, more of them, in random order, or --method auto"
            )
        if signature.digest in runtime.bundle.bases():  # unchanged: the file refers to the base instead of copying it
            signature = reduced(runtime.bundle, signature)
    signature.save(arguments.output)
    happened = collections.Counter(one.record.event for one in batches)
    blank = sum(one.record.blank for one in batches)
    before, during = sum(one.right_before for one in batches), sum(one.right for one in batches)
    summary: dict[str, Any] = {
        "signature": text_of(arguments.output), "digest": signature.digest, "size_bytes": len(signature.encode()), "start": start.digest,
        "task": signature.task, "method": arguments.method, "samples": done, "blank": blank, "events": dict(sorted(happened.items())),
        "accuracy": {"before": round(before / done, 6), "during": round(during / done, 6)} if known and done else None,
        "data": data.account.to_json(), "stopped": "ctrl-c" if stopped else None, "seconds": round(time.monotonic() - started, 3),
    }  # fmt: skip
    if arguments.history is not None:
        calls = [
            {**dataclasses.asdict(one.record), "accuracy": one.right / len(one.rows) if known else None}
            for one in batches
        ]
        files.write_bytes(arguments.history, files.canonical_json({"what": "adaptation", **summary, "calls": calls}))
    text = f"{arguments.output}: {plural(done, 'sample')}, " + ", ".join(
        f"{count} × {event}" for event, count in sorted(happened.items())
    )
    if blank:
        text += f"; {blank} without content were not used"
    if summary["accuracy"]:
        text += f"; accuracy {100 * before / done:.1f} -> {100 * during / done:.1f} % on the stream"
    print(f"{text_of(arguments.data)}: {data.account.sentence()}", file=sys.stderr)
    print(text, file=sys.stderr)
    print(json.dumps(summary))
    return 130 if stopped else 0
