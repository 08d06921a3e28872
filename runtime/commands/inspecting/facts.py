"""An artefact of isoform, read and validated, and all that is in it as JSON types: what ``isoform inspect --json`` prints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isoform.runtime.errors import EngineError, InputError, SignatureError
from isoform.runtime.formats import files, tensors
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import kind_named
from isoform.runtime.samples.names import text_of

__all__ = [
    "describe_bundle",
    "describe_signature",
    "described",
    "is_folder_of_signatures",
    "opened",
    "sizes_of",
]

ENDING = ".safetensors"


def is_folder_of_signatures(path: Path) -> bool:
    """Return whether a path is a folder that is no bundle, and has files with the extension of signatures."""
    if not os.path.isdir(path) or (path / "bundle.json").exists():
        return False
    return any(file.suffix == ENDING for file in path.iterdir())


def opened(path: Path) -> Bundle | Signature | dict[str, Any]:
    """Read an artefact; what has no class of its own is described as JSON types. All of it is validated.

    Raises:
        IsoformError: If it is not an artefact of isoform, or is damaged.
    """
    if path.is_dir():
        return Bundle.load(path)
    if path.suffix == ".onnx":
        return _describe_graph(path)
    if path.suffix == ".json":
        return {"what": "JSON", "content": files.read_json(path, limit=16 << 20, error=InputError, what="JSON file")}
    data = files.read_bytes(path, limit=4 << 30, error=InputError, what="file")  # as large as templates may be
    # of all tensor files only signatures name a task
    if "task" in tensors.metadata_of(data, error=InputError, what=str(path)):
        return Signature.decode(data, name=str(path))
    arrays, metadata = tensors.decode(data, error=InputError, what=str(path))
    shapes = {name: f"{array.dtype} {list(array.shape)}" for name, array in sorted(arrays.items())}
    return {"what": "tensors", "size_bytes": len(data), "metadata": metadata, "tensors": shapes}


def described(found: Bundle | Signature | dict[str, Any]) -> dict[str, Any]:
    """Return what ``opened`` found as JSON types: all of it."""
    if isinstance(found, Bundle):
        return describe_bundle(found)
    if isinstance(found, Signature):
        return {"what": "signature", "size_bytes": len(found.encode()), **describe_signature(found)}
    return found


def describe_signature(signature: Signature) -> dict[str, Any]:
    """Return a signature's fields, and its kind's description of the parts."""
    fields: dict[str, Any] = {
        "digest": signature.digest, "kind": signature.kind, "template": signature.template, "task": signature.task, "base": signature.base,
        "parent": signature.parent, "labels": list(signature.labels) if signature.labels else None, "created": signature.created,
        "precision": signature.precision, "parts": {name: list(array.shape) for name, array in signature.parts.items()},
    }  # fmt: skip
    kind = kind_named(signature.kind, error=SignatureError)
    return {**fields, **kind.describe(signature.parts)}


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """Return a bundle's fields, its signatures, and the size of each file."""
    return {
        "what": "bundle", "template": bundle.digest, "network": bundle.spec.to_json(),
        "tasks": {task: describe_signature(signature) for task, signature in bundle.signatures.items()},
        "compiled": dict(bundle.compiled.manifest) if bundle.compiled else None,
        "training": dict(bundle.training), "size_bytes": sizes_of(bundle.path),
    }  # fmt: skip


def sizes_of(folder: Path) -> dict[str, int]:
    """Return path, below the folder, → size in bytes of every file."""
    return {
        text_of(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()
    }


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

    def ends(entries: Any) -> Mapping[str, Any]:
        return {entry.name: f"{entry.type} {entry.shape}" for entry in entries}

    metadata = session.get_modelmeta()
    return {
        "what": "graph", "size_bytes": len(data), "producer": metadata.producer_name,
        "metadata": dict(metadata.custom_metadata_map), "inputs": ends(session.get_inputs()), "outputs": ends(session.get_outputs()),
    }  # fmt: skip


def _describe_portable(path: Path) -> dict[str, Any]:
    """Describe a graph without weights; it cannot run without a signature, so it is validated by its digest."""
    bundle = Bundle.load(path.absolute().parent.parent)
    graphs = bundle.require_compiled().graphs
    if path.stem not in graphs:
        raise InputError(f"{path} is not one of the compiled graphs: {', '.join(graphs)}")
    data = graphs[path.stem]
    note = "the weights come from a signature when a session is created"
    return {"what": "graph without weights", "size_bytes": len(data), "template": bundle.digest, "note": note}
