"""The compiled part of a bundle: the output of ``isoform compile``, checked against the bundle it was made from.

compiled/
  manifest.json                 digests of all compiled files; depends on the bundle only
  report.json                   measurements made while compiling
  signatures/<task>.safetensors base signatures with near-one-hot layers snapped to one-hot; these are the ones that run
  <name>.onnx                   a graph without weights, for any compatible signature; most kinds have only ``portable``
  training/                     one block, forward and backward pass, for learning on the device
  source/<task>.safetensors     statistics of a base signature's training samples, for adaptation
  fast/<task>.onnx, small/<task>.onnx      one self-contained file per task
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from isoform.runtime.errors import BundleError, EngineError, IsoformError
from isoform.runtime.formats import files
from isoform.runtime.formats.external import refuse_external_data
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import Spec

__all__ = ["FORMAT", "WEIGHTS_LOCATION", "Compiled", "load_compiled", "read_base", "read_mapping", "read_object"]

FORMAT = 4
WEIGHTS_LOCATION = "weights"
"""Location of the external data in graphs without weights; it is passed in memory. No other graph has external data."""
JSON_LIMIT = 16 << 20
GRAPH_LIMIT = 2 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """The contents of ``compiled/manifest.json``, the compiled signatures and the graphs."""

    path: Path
    """The ``compiled`` directory."""
    manifest: Mapping[str, Any]
    signatures: Mapping[str, Signature]
    """Task → base signature with near-one-hot layers snapped."""
    graphs: Mapping[str, bytes]
    """Name → graph without weights, ``<name>.onnx``; read at once, so that all files are from the same compilation."""

    def read(self, name: str) -> bytes:
        """Read a file listed in the manifest, such as ``portable.onnx``, and verify its sha256.

        Raises:
            BundleError: If it is not in the manifest, missing, not the compiled file, or a graph that would read other files.
        """
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise BundleError(f"{self.path} has no {name}; it has {', '.join(sorted(self.manifest['files']))}")
        data = files.read_bytes(self.path / name, limit=GRAPH_LIMIT, error=BundleError, what="compiled file")
        if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
            raise BundleError(
                f"{self.path / name} is not the file that was compiled; run 'isoform compile {self.path.parent}' again"
            )
        if name.endswith(".onnx"):
            try:
                # only the graphs at the top have no weights of their own
                refuse_external_data(data, location=None if "/" in name else WEIGHTS_LOCATION.encode())
            except EngineError as problem:
                raise BundleError(f"{self.path / name} was not written by 'isoform compile': {problem}") from None
        return data

    def training(self) -> dict[str, bytes]:
        """Read the files of ``training/``: name → content. Raises ``BundleError`` as ``read``."""
        folder = "training/"
        names = [name for name in self.manifest["files"] if name.startswith(folder)]
        return {name.removeprefix(folder): self.read(name) for name in names}


def load_compiled(
    bundle: Path, *, spec: Spec, digest: str, trained: Mapping[str, Signature], folder: Path | None = None
) -> Compiled | None:
    """Read ``compiled/`` and check that it was made from this bundle.

    Args:
        bundle: The bundle's directory.
        spec: The network's sizes.
        digest: The template digest.
        trained: Task → trained base signature.
        folder: The directory, if it is not ``compiled/`` of the bundle's yet.

    Returns:
        The compiled part; None if there is no such directory.

    Raises:
        BundleError: If it is damaged, or was compiled from other templates or signatures; the message has the command to run.
    """
    path = folder or bundle / "compiled"
    if not path.is_dir():
        return None
    manifest = read_object(path / "manifest.json", "manifest.json")
    again = f"run 'isoform compile {bundle}' again"
    if manifest.get("format") != FORMAT:
        raise BundleError(
            f"{path / 'manifest.json'} has format {manifest.get('format')!r}, but this version reads format {FORMAT}; {again}"
        )
    if manifest.get("template") != digest:
        raise BundleError(
            f"{path} was compiled for templates {str(manifest.get('template'))[:8]}, but the bundle has {digest[:8]}; {again}"
        )
    tasks, entries = read_mapping(manifest, "tasks", path), read_mapping(manifest, "files", path)
    if not all(isinstance(entry, dict) for entry in entries.values()):
        raise BundleError(f"{path / 'manifest.json'} has an entry in $.files that is not an object; {again}")
    if set(tasks) != set(trained):
        raise BundleError(
            f"{path} was compiled for tasks {sorted(tasks)}, but the bundle has {sorted(trained)}; {again}"
        )
    signatures = {}
    for task in trained:
        try:
            signature = read_base(path / "signatures", task, tasks[task])
            signature.check_fits(spec, digest, name=task)
            if tasks[task].get("trained") != trained[task].digest or set(signature.parts) != set(trained[task].parts):
                raise BundleError(f"{path} was compiled from a different signature of task {task!r} than the bundle's")
        except IsoformError as problem:
            raise BundleError(f"{problem}; {again}") from None
        signatures[task] = signature
    compiled = Compiled(
        path=path, manifest=MappingProxyType(manifest), signatures=MappingProxyType(signatures), graphs={}
    )
    names = [name for name in entries if name.endswith(".onnx") and "/" not in name]
    if not names:
        raise BundleError(f"{path / 'manifest.json'} lists no graph, such as portable.onnx; {again}")
    graphs = {name.removesuffix(".onnx"): compiled.read(name) for name in names}
    return dataclasses.replace(compiled, graphs=MappingProxyType(graphs))


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object from a file. Raises ``BundleError`` if it is anything else."""
    value = files.read_json(path, limit=JSON_LIMIT, error=BundleError, what=what)
    if not isinstance(value, dict):
        raise BundleError(f"{path} holds a {type(value).__name__}, but an object was expected")
    return value


def read_mapping(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Return a member that must be an object. Raises ``BundleError`` if it is anything else."""
    value = content.get(name)
    if not isinstance(value, dict):
        raise BundleError(f"{path} has no object $.{name}; it was not written by isoform, or was changed")
    return value


def read_base(directory: Path, task: str, entry: object) -> Signature:
    """Read a task's base signature, and check its digest against the bundle's entry. Raises ``BundleError`` if it differs."""
    signature = Signature.load(directory / f"{task}.safetensors")
    if signature.task != task:
        raise BundleError(f"{directory / task}.safetensors is of task {signature.task!r}; copy the bundle again")
    named = entry.get("signature") if isinstance(entry, dict) else None
    if signature.digest != named:
        raise BundleError(
            f"{directory / task}.safetensors has digest {signature.digest[:8]}, but the bundle names {str(named)[:8]}; copy the bundle again"
        )
    return signature
