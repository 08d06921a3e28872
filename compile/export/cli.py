"""``isoform export``: one signature as an ONNX file of its own, or as an adapter of ONNX Runtime's."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isoform.runtime.errors import UsageError
from isoform.runtime.formats import files
from isoform.runtime.samples.account import plural
from isoform.runtime.samples.names import text_of

if TYPE_CHECKING:
    from isoform.runtime.arrays import Array
    from isoform.runtime.formats.bundle import Bundle
    from isoform.runtime.formats.signature import Signature

__all__ = ["add_arguments_export", "run_export"]

ADAPTER = ".onnx_adapter"
CALIBRATION = 256
"""Samples that int8 is calibrated on, at most."""
RANDOM = 32
"""Random samples that a file is compared on if none are given."""


def add_arguments_export(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform export``'s arguments."""
    parser.add_argument("bundle", type=Path, help="a compiled bundle")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help=f"the file to write: .onnx, or {ADAPTER} for an adapter of ONNX Runtime's"
    )  # fmt: skip
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--task", help="the task whose base signature to export; optional if the bundle has one task")
    who.add_argument("--signature", type=Path, help="a signature file to export instead")
    parser.add_argument(
        "--layout",
        default="fast",
        help="fast, or small, which stores each template once; of kind mixture (default: fast)",
    )
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="numbers of the file (default: fp32)"
    )
    parser.add_argument(
        "--data", type=Path,
        help="samples, as for 'isoform personalize' or 'isoform adapt', to compare answers on; int8 needs them: half calibrate it, half judge it",
    )  # fmt: skip
    parser.add_argument(
        "--max-drop", type=float, default=1.0,
        help="largest loss of accuracy, in points; without labels, largest share of samples whose class changes, in percent (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--graph",
        type=Path,
        help=f"with {ADAPTER}: where to write the graph that adapters of this task's users are for",
    )
    parser.epilog = "example:\n  isoform export bundle/ --signature me.safetensors -o me.onnx\n"
    parser.epilog += "  isoform export bundle/ --precision int8 --data digits/ -o plain.onnx"


def run_export(arguments: argparse.Namespace) -> None:
    """Export, compare with the runtime, write, and print what was compared as JSON on stdout."""
    from isoform.runtime.formats.bundle import Bundle

    output: Path = arguments.output
    if output.suffix not in (".onnx", ADAPTER):
        raise UsageError(f"{output} ends in {output.suffix or 'nothing'!r}, but .onnx or {ADAPTER} was expected")
    for path in filter(None, (output, arguments.graph)):
        if not path.absolute().parent.is_dir():
            raise UsageError(f"{path.parent} is not a folder; create it first")
    if (output.suffix == ADAPTER) != (arguments.graph is not None):
        raise UsageError(
            f"--graph says where the graph of an adapter goes; give it with {ADAPTER}, and with nothing else"
        )
    bundle = Bundle.load(arguments.bundle)
    bundle.require_compiled()
    signature = bundle.chosen(task=arguments.task, file=arguments.signature)
    x, labels = _samples(bundle, signature, arguments.data)
    run = _adapter if output.suffix == ADAPTER else _network
    print(json.dumps(run(arguments, bundle, signature, x, labels)))


def _network(
    arguments: argparse.Namespace, bundle: Bundle, signature: Signature, x: Array, labels: Array | None
) -> dict[str, Any]:
    from isoform.compile.export.network import compared, network_file
    from isoform.runtime.engines.engine import AUTO, open_engine
    from isoform.runtime.learn.samples import spaced

    calibration = None
    if arguments.precision == "int8":
        if arguments.data is None or len(x) < 2:
            raise UsageError("int8 is calibrated on samples; give two or more with --data")
        calibration, x = spaced(x[::2], CALIBRATION), x[1::2]
        labels = None if labels is None else labels[1::2]
    file = network_file(
        bundle, signature, layout=arguments.layout, precision=arguments.precision, calibration=calibration
    )
    engine = open_engine(AUTO, bundle, threads=1, cache_bytes=64 << 20)
    told = compared(
        file, engine, bundle, signature, x, labels, precision=arguments.precision, max_drop_points=arguments.max_drop
    )  # fmt: skip
    files.write_bytes(arguments.output, file)
    answers = told.answers
    if answers.top1_before is None or answers.top1_after is None:
        says = f"{100 * answers.agreement:.2f} % of {plural(answers.samples, 'sample')} with the same class"
    else:
        says = f"accuracy {100 * answers.top1_before:.2f} → {100 * answers.top1_after:.2f} % of {plural(answers.samples, 'sample')}"
    print(
        f"{says}; largest difference {answers.gap:.0e} of the largest logit; {told.milliseconds:.3f} ms per sample, in the runtime "
        f"{told.milliseconds_before:.3f}; {len(file):,} bytes",
        file=sys.stderr,
    )
    about = {"layout": arguments.layout, "precision": arguments.precision}
    return {**_about(arguments, signature), **about, "size_bytes": len(file), **told.to_json()}


def _adapter(
    arguments: argparse.Namespace, bundle: Bundle, signature: Signature, x: Array, labels: Array | None
) -> dict[str, Any]:
    from isoform.compile.export.adapter import adapter_file, adapter_graph, run_adapter
    from isoform.compile.export.comparison import compare
    from isoform.compile.export.network import LIMIT
    from isoform.runtime.engines.engine import AUTO, open_engine

    del labels
    if arguments.precision != "fp32" or arguments.layout != "fast":
        raise UsageError("an adapter is in fp32, of layout fast; leave --precision and --layout out")
    graph, adapter = adapter_graph(bundle, bundle.base(signature.task)), adapter_file(bundle, signature)
    expected = open_engine(AUTO, bundle, threads=1, cache_bytes=64 << 20).logits(x[:RANDOM], signature)
    found = run_adapter(graph, adapter, x[:RANDOM])
    answers = compare(found, expected, None)
    answers.check_gap(LIMIT, "the adapter", "the runtime")
    files.write_bytes(arguments.graph, graph)
    files.write_bytes(arguments.output, adapter)
    return {
        **_about(arguments, signature), "graph": text_of(arguments.graph), "size_bytes": len(adapter), "graph_bytes": len(graph),
        "samples": answers.samples, "gap": answers.gap,
    }  # fmt: skip


def _about(arguments: argparse.Namespace, signature: Signature) -> dict[str, Any]:
    return {"file": text_of(arguments.output), "task": signature.task, "signature": signature.digest}


def _samples(bundle: Bundle, signature: Signature, data: Path | None) -> tuple[Array, Array | None]:
    """Return samples to compare on, random ones if none are given, and the indices of their labels if they are known."""
    from isoform.runtime.learn.labels import label_indices
    from isoform.runtime.samples.unlabelled import read_stream

    front = bundle.network.front(signature.task)
    takes = bundle.spec.input_of(signature.task) if front is None else front.samples
    if data is None:
        return takes.random(np.random.default_rng(0), RANDOM), None
    found = read_stream(data, takes=takes, reading=bundle.reading)
    print(found.account.sentence(), file=sys.stderr)
    if found.labels is None:
        return found.x, None
    return found.x, label_indices(list(found.labels), bundle.labels(signature), samples=len(found.x), several=False)
