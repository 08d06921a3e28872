"""Bundles: the directory that ``train`` writes and ``compile`` completes.

    bundle.json                     format, kind, network sizes, tasks with labels and what they take, digests, how it was trained
    templates.safetensors           K template blocks, adapters, embedding, shared BN affine
    signatures/<task>.safetensors   base signatures as they were trained
    compiled/                       written by ``isoform compile``, see ``compiled.py``

Reading checks every digest before anything is used. Must never import torch or onnx.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from isoform.runtime.arrays import Array
from isoform.runtime.errors import BundleError, SignatureError, SpecError
from isoform.runtime.formats import files, tensors
from isoform.runtime.formats.compiled import Compiled, load_compiled, read_base, read_mapping, read_object
from isoform.runtime.formats.replaced import identity, stood_still
from isoform.runtime.formats.signature import Signature, check_name
from isoform.runtime.formats.templates import checked_templates, template_digest
from isoform.runtime.inputs import Input
from isoform.runtime.kind import Graph, Kind, Network, Spec, kind_named

__all__ = ["Bundle", "Resolved"]

FORMAT = 2
"""Of ``bundle.json``."""
OLD = 1
"""Tasks do not say what they take: all of them ``image``, of the network's ``input_shape``."""

TEMPLATES_LIMIT = 4 << 30
TRIES = 8
"""How often a bundle is read again that was replaced while it was read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolved:
    """A signature with all that it inherits: what runs. Immutable."""

    signature: Signature
    parts: Mapping[str, Array]
    """All parts of the kind, by name, read-only."""
    labels: tuple[str, ...]
    """Names of its classes, one per row of its logits layer."""

    @property
    def task(self) -> str:
        """Its task."""
        return self.signature.task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """Templates, base signatures and everything needed to run them. Immutable."""

    path: Path
    spec: Spec
    tensors: Mapping[str, Array]
    """``templates.safetensors``: ``spec.template_shapes``' names → float32 arrays, read-only."""
    digest: str
    """The template digest, 64 hex digits; every signature names it."""
    signatures: Mapping[str, Signature]
    """Task → base signature as it was trained, complete."""
    training: Mapping[str, Any]
    """How it was trained: the resolved recipe, data digest, seeds, final figures. For people; nothing reads it back to run."""
    compiled: Compiled | None = None
    """None until ``isoform compile`` has run."""

    @classmethod
    def create(
        cls,
        *,
        spec: Spec,
        tensors: Mapping[str, Array],
        signatures: Mapping[str, Signature],
        training: Mapping[str, Any],
    ) -> Bundle:
        """A bundle that is not on disk yet.

        Raises:
            BundleError: If a tensor is missing, of the wrong shape, or not finite; or there is no task.
            SignatureError: If a signature does not fit or is not complete.
        """
        arrays = checked_templates(spec, tensors, where="templates")
        digest = template_digest(spec, arrays)
        bundle = cls(
            path=Path(),
            spec=spec,
            tensors=MappingProxyType(arrays),
            digest=digest,
            signatures=MappingProxyType(dict(signatures)),
            training=training,
        )
        bundle._check_signatures()
        return bundle

    @property
    def kind(self) -> Kind:
        """How its signatures are to be understood."""
        return kind_named(self.spec.kind, error=BundleError)

    @functools.cached_property
    def network(self) -> Network:
        """The templates, ready to be combined with signatures."""
        return self.kind.network(self.spec, self.tensors)

    def _check_signatures(self) -> None:
        if not self.signatures:
            raise BundleError("a bundle has no task, but one base signature at least was expected")
        for task, signature in self.signatures.items():
            signature.check_fits(self.spec, self.digest, name=task)
            missing = self.spec.required - set(signature.parts)
            if missing or signature.task != task or signature.labels is None:
                raise SignatureError(
                    f"the base signature of task {task!r} lacks {sorted(missing) or 'its own name or labels'}; a base signature is complete"
                )

    def _check_inputs(self, tasks: Mapping[str, Any]) -> None:
        """Check that each task's entry says what its network takes: programs that know no kinds rely on it."""
        for task, entry in tasks.items():
            where, takes = f"{self.path / 'bundle.json'}: task {task!r}", self.spec.input_of(task)
            try:
                said = Input.from_json(entry.get("input"))
            except SpecError as problem:
                raise BundleError(f"{where}: {problem}") from None
            if said != takes:
                raise BundleError(
                    f"{where} is said to take {said.what} {said}, but its network takes {takes.what} {takes}"
                )

    def write(self, directory: str | Path) -> None:
        """Write everything but ``compiled/`` into an empty directory, made if need be. The same bundle gives the same bytes.

        Raises:
            BundleError: If the directory is not empty, or cannot be written.
        """
        directory = Path(directory)
        content: dict[str, Any] = {
            "format": FORMAT, "kind": self.spec.kind, "network": self.spec.to_json(), "template": self.digest,
            "tasks": {
                task: {"labels": list(signature.labels or ()), "signature": signature.digest, "input": self.spec.input_of(task).to_json()}
                for task, signature in self.signatures.items()
            },
            "training": dict(self.training),
        }  # fmt: skip
        try:
            if directory.is_dir() and any(directory.iterdir()):
                raise BundleError(
                    f"{directory} is not empty, and a bundle is written into an empty directory; choose another name"
                )
            (directory / "signatures").mkdir(parents=True)
            (directory / "templates.safetensors").write_bytes(tensors.encode(self.tensors, {"template": self.digest}))
            for task, signature in self.signatures.items():
                (directory / "signatures" / f"{task}.safetensors").write_bytes(signature.encode())
            (directory / "bundle.json").write_bytes(files.canonical_json(content))
        except (OSError, ValueError) as problem:
            what = problem.strerror if isinstance(problem, OSError) else problem
            raise BundleError(f"bundle {directory} cannot be written: {what}; choose another place") from None

    @classmethod
    def load(cls, path: str | Path, *, with_compiled: bool = True) -> Bundle:
        """Read a bundle and check every digest in it.

        Args:
            path: The directory.
            with_compiled: False to leave ``compiled/`` alone, whatever state it is in.

        Raises:
            BundleError: If a file is missing, malformed or not the one that ``bundle.json`` names.
            SignatureError: If a base signature is damaged or does not fit.
        """
        path = Path(path)
        for attempt in range(TRIES):
            before = identity(path)
            try:
                return cls._load(path, with_compiled=with_compiled)
            except (BundleError, SignatureError):
                # A writer may have put a new directory in place while we read the old one: then what we saw was half of each.
                if stood_still(path, before):
                    raise
            time.sleep(0.002 * attempt)
        return cls._load(path, with_compiled=with_compiled)

    @classmethod
    def _load(cls, path: Path, *, with_compiled: bool) -> Bundle:
        if not path.is_dir():
            if aside := files.set_aside(path.absolute()):
                raise BundleError(
                    f"bundle {path} was being replaced when its writer died; the old one is {aside}, rename it back"
                )
            raise BundleError(f"bundle {path} is not a directory; 'isoform train RECIPE.toml -o {path}' makes one")
        content = read_object(path / "bundle.json", "bundle.json")
        if content.get("format") not in (OLD, FORMAT):
            raise BundleError(
                f"{path / 'bundle.json'} is of format {content.get('format')!r}, but this version reads formats {OLD} and {FORMAT}; use a matching isoform"
            )
        try:
            kind = kind_named(content.get("kind"), error=lambda text: SpecError(f"it {text}"))
            spec = kind.read_spec(content.get("network"))
            if content.get("kind") != spec.kind:
                raise SpecError(f"it is of kind {content.get('kind')!r}, but its network of kind {spec.kind!r}")
            names = [check_name(name) for name in read_mapping(content, "tasks", path)]
        except (SpecError, SignatureError) as problem:
            raise BundleError(f"{path / 'bundle.json'}: {problem}") from None
        file = path / "templates.safetensors"
        data = files.read_bytes(file, limit=TEMPLATES_LIMIT, error=BundleError, what="templates")
        arrays, _ = tensors.decode(data, error=BundleError, what=str(file))
        arrays = checked_templates(spec, arrays, where=str(file))
        digest = template_digest(spec, arrays)
        if digest != content.get("template"):
            raise BundleError(
                f"{file} has digest {digest[:8]}, but bundle.json names {str(content.get('template'))[:8]}; the files are of two bundles, copy them again"
            )
        signatures = {name: read_base(path / "signatures", name, content["tasks"][name]) for name in names}
        bundle = cls(
            path=path, spec=spec, tensors=MappingProxyType(arrays), digest=digest, signatures=MappingProxyType(signatures),
            training=read_mapping(content, "training", path),
        )  # fmt: skip
        bundle._check_signatures()
        if content["format"] != OLD:
            bundle._check_inputs(content["tasks"])
        if not with_compiled:
            return bundle
        return dataclasses.replace(bundle, compiled=load_compiled(path, spec=spec, digest=digest, trained=signatures))

    def base(self, task: str) -> Signature:
        """The base signature that runs: the compiled one, or before compiling the trained one.

        Raises:
            BundleError: If there is no such task.
        """
        if task not in self.signatures:
            raise BundleError(f"there is no task {task!r} in {self.path}; it has {', '.join(self.signatures)}")
        return (self.compiled.signatures if self.compiled else self.signatures)[task]

    def bases(self) -> dict[str, Signature]:
        """Digest → base signature, those that were trained and those that were compiled: what a signature may inherit from."""
        compiled = self.compiled.signatures.values() if self.compiled else ()
        return {base.digest: base for base in (*self.signatures.values(), *compiled)}

    def base_of(self, signature: Signature) -> Signature | None:
        """The base signature that a signature's absent parts come from; None if it names none, or one that is not here."""
        for signatures in (self.signatures, self.compiled.signatures if self.compiled else {}):
            base = signatures.get(signature.task)
            if base is not None and base.digest == signature.base:
                return base
        return None

    def require_compiled(self) -> Compiled:
        """What was compiled. Raises ``BundleError``, with the command, if nothing was."""
        if self.compiled is None:
            raise BundleError(f"{self.path} is not compiled; run 'isoform compile {self.path}'")
        return self.compiled

    def labels(self, signature: Signature) -> tuple[str, ...]:
        """The names of a signature's classes: its own, or those of the base that it inherits from.

        Raises:
            SignatureError: If they are not as many as its logits layer has rows.
        """
        labels = signature.labels or self._inherited(signature).labels or ()
        rows = signature.parts.get("logits.bias")
        if rows is None:
            rows = self._inherited(signature).parts["logits.bias"]
        if len(labels) != len(rows):
            raise SignatureError(
                f"signature {signature.digest[:8]} has {len(labels)} labels for {len(rows)} classes; make it again with a label for each class"
            )
        return labels

    def resolve(self, signature: Signature) -> Resolved:
        """Complete a signature: absent parts come from its base, or follow from others and the templates.

        Raises:
            SignatureError: If it was made for other templates, does not fit, or inherits from a base that is not here.
        """
        signature.check_fits(self.spec, self.digest)
        parts = dict(signature.parts)
        absent = set(self.spec.part_shapes) - set(parts)
        if self.spec.required & absent or (absent and self.base_of(signature) is not None):
            parts = {**self._inherited(signature).parts, **parts}
        labels = self.labels(signature)
        return Resolved(signature=signature, parts=self.network.complete(signature.task, parts), labels=labels)

    def graph(self, resolved: Resolved) -> tuple[str, Graph]:
        """The compiled graph that runs a signature, the fastest that is here: its name, and how to fold for it.

        Raises:
            BundleError: If nothing was compiled, or no graph that can run it.
        """
        names, graphs = self.network.graphs(resolved.task, resolved.parts), self.require_compiled().graphs
        for name in names:
            if name in graphs:
                return name, self.network.graph(name)
        raise BundleError(
            f"{self.path} has no graph for signature {resolved.signature.digest[:8]}: {' or '.join(names)} was expected, but "
            f"{', '.join(graphs)} were compiled; run 'isoform compile {self.path}' again"
        )

    def _inherited(self, signature: Signature) -> Signature:
        base = self.base_of(signature)
        if base is not None:
            return base
        if signature.task not in self.signatures:
            raise SignatureError(
                f"signature {signature.digest[:8]} is of task {signature.task!r}, but {self.path} has {', '.join(self.signatures)}"
            )
        here = [base.digest[:8] for base in self.bases().values() if base.task == signature.task]
        raise SignatureError(
            f"signature {signature.digest[:8]} inherits parts from base {(signature.base or 'none')[:8]} of task {signature.task!r}, but "
            f"{' and '.join(here)} are here; make the signature again from this bundle's base"
        )
