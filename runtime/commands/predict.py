"""``isoform predict`` and ``isoform inspect``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from isoform.runtime.arrays import softmax
from isoform.runtime.commands.opened import add_engine_arguments, open_runtime
from isoform.runtime.errors import EngineError, InputError, SignatureError, UsageError
from isoform.runtime.formats import files, tensors
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import kind_named
from isoform.runtime.samples.names import text_of

__all__ = [
    "add_arguments_inspect",
    "add_arguments_predict",
    "describe",
    "describe_signature",
    "run_inspect",
    "run_predict",
]


def add_arguments_predict(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform predict``'s arguments."""
    parser.add_argument("bundle", type=Path, help="a compiled bundle")
    parser.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="image files, or folders of them; images are resized and converted to the bundle's size and channels",
    )
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--task", help="the task whose base signature to use; optional if the bundle has one task")
    who.add_argument("--signature", type=Path, help="a signature file to use instead of a base signature")
    add_engine_arguments(parser)
    parser.add_argument("--top", type=int, default=3, help="number of labels to list per image (default: 3)")
    parser.epilog = "example:\n  isoform predict bundle/ digit.png --task plain"


def run_predict(arguments: argparse.Namespace) -> None:
    """Predict on image files; prints one JSON object per image on stdout, in the order given, while reading."""
    from isoform.runtime.batches import slice_samples
    from isoform.runtime.samples.account import Account
    from isoform.runtime.samples.grid import grid_of
    from isoform.runtime.samples.named_images import read_images

    if arguments.top < 1:
        raise UsageError(f"--top is {arguments.top}, but 1 or more was expected")
    with open_runtime(arguments) as runtime:
        signature = runtime.bundle.chosen(task=arguments.task, file=arguments.signature)
        labels = runtime.labels(signature)
        account, takes = Account(), runtime.input_of(signature.task)
        if takes.what != "image":
            raise UsageError(
                f"the network's input is {takes.plural} of shape {takes}, but this command reads images; use Runtime.predict or 'isoform serve'"
            )
        shape = grid_of(takes, arguments.images[0])
        # as many images in memory as the predictor runs at once
        chunk = slice_samples(runtime.bundle.spec, signature.task, shape)
        for x, paths in read_images(arguments.images, shape=shape, account=account, chunk=chunk):
            for path, row in zip(paths, softmax(runtime.predict(x, signature)), strict=True):
                # stable: equal probabilities are listed in the order of the classes
                order = np.argsort(-row, kind="stable")[: arguments.top]
                best = [{"label": labels[i], "probability": round(float(row[i]), 6)} for i in order]
                found = {"image": text_of(path), "label": labels[order[0]], "top": best}
                print(json.dumps({**found, "task": signature.task, "signature": signature.digest}))
    print(account.sentence(), file=sys.stderr)


def add_arguments_inspect(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform inspect``'s arguments."""
    parser.add_argument(
        "path",
        type=Path,
        help="a bundle directory, a signature, templates or checkpoint file, an .onnx file, or a JSON report",
    )
    parser.epilog = "example:\n  isoform inspect bundle/signatures/plain.safetensors"


def run_inspect(arguments: argparse.Namespace) -> None:
    """Describe an artefact as JSON on stdout."""
    print(json.dumps(describe(arguments.path), indent=2, ensure_ascii=False))


def describe(path: Path) -> dict[str, Any]:
    """Describe an artefact's contents, as JSON types. All of it is validated.

    Raises:
        IsoformError: If it is not an artefact of isoform, or is damaged.
    """
    if path.is_dir():
        return _describe_bundle(path)
    if path.suffix == ".onnx":
        return _describe_graph(path)
    if path.suffix == ".json":
        return {"what": "JSON", "content": files.read_json(path, limit=16 << 20, error=InputError, what="JSON file")}
    data = files.read_bytes(path, limit=4 << 30, error=InputError, what="file")  # as large as templates may be
    # of all tensor files only signatures name a task
    if "task" in tensors.metadata_of(data, error=InputError, what=str(path)):
        return {
            "what": "signature",
            "size_bytes": len(data),
            **describe_signature(Signature.decode(data, name=str(path))),
        }
    arrays, metadata = tensors.decode(data, error=InputError, what=str(path))
    shapes = {name: f"{array.dtype} {list(array.shape)}" for name, array in sorted(arrays.items())}
    return {"what": "tensors", "size_bytes": len(data), "metadata": metadata, "tensors": shapes}


def describe_signature(signature: Signature) -> dict[str, Any]:
    """Return a signature's fields, and its kind's description of the parts."""
    fields: dict[str, Any] = {
        "digest": signature.digest, "kind": signature.kind, "template": signature.template, "task": signature.task, "base": signature.base,
        "parent": signature.parent, "labels": list(signature.labels) if signature.labels else None, "created": signature.created,
        "precision": signature.precision, "parts": {name: list(array.shape) for name, array in signature.parts.items()},
    }  # fmt: skip
    kind = kind_named(signature.kind, error=SignatureError)
    return {**fields, **kind.describe(signature.parts)}


def _describe_bundle(path: Path) -> dict[str, Any]:
    from isoform.runtime.formats.bundle import Bundle

    bundle = Bundle.load(path)
    sizes = {text_of(file.relative_to(path)): file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()}
    return {
        "what": "bundle", "template": bundle.digest, "network": bundle.spec.to_json(),
        "tasks": {task: describe_signature(signature) for task, signature in bundle.signatures.items()},
        "compiled": dict(bundle.compiled.manifest) if bundle.compiled else None,
        "training": dict(bundle.training), "size_bytes": sizes,
    }  # fmt: skip


def _describe_graph(path: Path) -> dict[str, Any]:
    from isoform.runtime.engines.onnx.session import open_session, ort, session_options
    from isoform.runtime.formats.external import refuse_external_data

    data = files.read_bytes(path, limit=2 << 30, error=InputError, what="graph")
    options = session_options(1)
    options.log_severity_level = 4  # ONNX Runtime would log the error to stderr that is reported as one line here
    # nothing is run, so optimising would only take time
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        refuse_external_data(data)
        session = open_session(data, options, what="it")
    except EngineError as problem:
        # a portable graph has external data that only a signature provides, so it cannot be loaded alone
        if path.absolute().parent.name == "compiled" and (path.parent / "manifest.json").is_file():
            return _describe_portable(path)
        raise InputError(f"{path} is not a graph that ONNX Runtime can load: {problem}") from None

    def ends(entries: Any) -> dict[str, Any]:
        return {entry.name: f"{entry.type} {entry.shape}" for entry in entries}

    metadata = session.get_modelmeta()
    return {
        "what": "graph", "size_bytes": len(data), "producer": metadata.producer_name,
        "metadata": dict(metadata.custom_metadata_map), "inputs": ends(session.get_inputs()), "outputs": ends(session.get_outputs()),
    }  # fmt: skip


def _describe_portable(path: Path) -> dict[str, Any]:
    """Describe a graph without weights; it cannot run without a signature, so it is validated by its digest."""
    from isoform.runtime.formats.bundle import Bundle

    bundle = Bundle.load(path.absolute().parent.parent)
    graphs = bundle.require_compiled().graphs
    if path.stem not in graphs:
        raise InputError(f"{path} is not one of the compiled graphs: {', '.join(graphs)}")
    data = graphs[path.stem]
    note = "the weights come from a signature when a session is created"
    return {"what": "graph without weights", "size_bytes": len(data), "template": bundle.digest, "note": note}
