"""Bundles: the directory that ``train`` writes and ``compile`` completes.

    bundle.json                     format, kind, network sizes, tasks with labels and inputs, digests, training details
    templates.safetensors           K template blocks, adapters, embedding, shared BN affine
    signatures/<task>.safetensors   base signatures as they were trained
    compiled/                       written by ``isoform compile``, see ``compiled.py``

All digests are verified on reading, before anything is used. Must never import torch or onnx.
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
from isoform.runtime.errors import BundleError, SignatureError, SpecError, UsageError
from isoform.runtime.formats import files, tensors
from isoform.runtime.formats.compiled import Compiled, load_compiled, read_base, read_mapping, read_object
from isoform.runtime.formats.replaced import identity, stood_still
from isoform.runtime.formats.signature import Signature, check_name
from isoform.runtime.formats.templates import checked_templates, template_digest
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.kind import Graph, Kind, Network, Spec, kind_named

__all__ = ["Bundle", "Resolved"]

FORMAT = 2
"""Format of ``bundle.json``."""
OLD = 1
"""Format without inputs per task: every task has the input ``image``, of the network's ``input_shape``."""

TEMPLATES_LIMIT = 4 << 30
TRIES = 8
"""Maximum number of retries if a bundle is replaced while it is read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolved:
    """A signature completed with all inherited parts. Immutable."""

    signature: Signature
    parts: Mapping[str, Array]
    """All parts of the kind, by name, read-only."""
    labels: tuple[str, ...]
    """Class names, one per row of the logits layer."""

    @property
    def task(self) -> str:
        """The signature's task."""
        return self.signature.task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """Templates and base signatures, with the compiled graphs if there are any. Immutable."""

    path: Path
    spec: Spec
    tensors: Mapping[str, Array]
    """``templates.safetensors``: ``spec.template_shapes``' names → float32 or int8 arrays, read-only."""
    digest: str
    """The template digest, 64 hex digits; every signature refers to it."""
    signatures: Mapping[str, Signature]
    """Task → trained base signature, complete."""
    training: Mapping[str, Any]
    """Training details: the resolved recipe, data digest, seeds, final metrics. For information only."""
    reading: Reading = dataclasses.field(default_factory=Reading)
    """How samples were read from files."""
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
        """Create a bundle in memory; ``write`` writes it.

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
        """The kind of the bundle's network."""
        return kind_named(self.spec.kind, error=BundleError)

    @functools.cached_property
    def network(self) -> Network:
        """The network of the bundle's templates."""
        return self.kind.network(self.spec, self.tensors)

    def _check_signatures(self) -> None:
        if not self.signatures:
            raise BundleError("a bundle has no task, but at least one base signature was expected")
        for task, signature in self.signatures.items():
            signature.check_fits(self.spec, self.digest, name=task)
            missing = self.spec.required_of(task) - set(signature.parts)
            if missing or signature.task != task or signature.labels is None:
                raise SignatureError(
                    f"the base signature of task {task!r} lacks {sorted(missing) or 'its own name or labels'}; a base signature is complete"
                )

    def _check_inputs(self, tasks: Mapping[str, Any]) -> None:
        """Check that each task's entry describes its network's input, which programs without the kind's code rely on."""
        for task, entry in tasks.items():
            where, takes = f"{self.path / 'bundle.json'}: task {task!r}", self.spec.input_of(task)
            try:
                said = Input.from_json(entry.get("input"))
            except SpecError as problem:
                raise BundleError(f"{where}: {problem}") from None
            if said != takes:
                raise BundleError(
                    f"{where} declares the input {said.what} {said}, but its network expects {takes.what} {takes}"
                )

    def write(self, directory: str | Path) -> None:
        """Write everything but ``compiled/`` into an empty directory, created if necessary. The same bundle gives the same bytes.

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
        if read := self.reading.to_json():
            content["reading"] = read
        # Plain writes: the caller fills a temporary directory (``files.replace_directory``).
        try:
            if directory.is_dir() and any(directory.iterdir()):
                raise BundleError(
                    f"{directory} is not empty, but a bundle needs an empty directory; choose another name"
                )
            (directory / "signatures").mkdir(parents=True)
            (directory / "templates.safetensors").write_bytes(tensors.encode(self.tensors, {"template": self.digest}))
            for task, signature in self.signatures.items():
                (directory / "signatures" / f"{task}.safetensors").write_bytes(signature.encode())
            (directory / "bundle.json").write_bytes(files.canonical_json(content))
        except (OSError, ValueError) as problem:
            what = problem.strerror if isinstance(problem, OSError) else problem
            raise BundleError(f"bundle {directory} cannot be written: {what}; choose another directory") from None

    @classmethod
    def load(cls, path: str | Path, *, with_compiled: bool = True) -> Bundle:
        """Read a bundle and verify all digests.

        Args:
            path: The directory.
            with_compiled: False to ignore ``compiled/``, even if it is damaged.

        Raises:
            BundleError: If a file is missing, malformed or not the one named in ``bundle.json``.
            SignatureError: If a base signature is damaged or does not fit.
        """
        path = Path(path)
        for attempt in range(TRIES):
            before = identity(path)
            try:
                return cls._load(path, with_compiled=with_compiled)
            except (BundleError, SignatureError):
                # A writer may have replaced the directory while it was read, so that the files were of both versions: try again.
                if stood_still(path, before):
                    raise
            time.sleep(0.002 * attempt)
        return cls._load(path, with_compiled=with_compiled)

    @classmethod
    def _load(cls, path: Path, *, with_compiled: bool) -> Bundle:
        if not path.is_dir():
            if aside := files.set_aside(path.absolute()):
                raise BundleError(
                    f"bundle {path} was being replaced when the writer was killed; the old bundle is {aside}, rename it back"
                )
            raise BundleError(f"bundle {path} is not a directory; 'isoform train RECIPE.toml -o {path}' creates one")
        content = read_object(path / "bundle.json", "bundle.json")
        if content.get("format") not in (OLD, FORMAT):
            raise BundleError(
                f"{path / 'bundle.json'} has format {content.get('format')!r}, but this version reads formats {OLD} and {FORMAT}; use a matching isoform"
            )
        try:
            kind = kind_named(content.get("kind"), error=lambda text: SpecError(f"it {text}"))
            spec = kind.read_spec(content.get("network"))
            if content.get("kind") != spec.kind:
                raise SpecError(f"it is of kind {content.get('kind')!r}, but its network of kind {spec.kind!r}")
            names = [check_name(name) for name in read_mapping(content, "tasks", path)]
            reading = Reading.from_json(content.get("reading", {}))
        except (SpecError, SignatureError) as problem:
            raise BundleError(f"{path / 'bundle.json'}: {problem}") from None
        file = path / "templates.safetensors"
        data = files.read_bytes(file, limit=TEMPLATES_LIMIT, error=BundleError, what="templates")
        arrays, _ = tensors.decode(data, error=BundleError, what=str(file))
        arrays = checked_templates(spec, arrays, where=str(file))
        digest = template_digest(spec, arrays)
        if digest != content.get("template"):
            raise BundleError(
                f"{file} has digest {digest[:8]}, but bundle.json names {str(content.get('template'))[:8]}; the files are of different bundles, copy it again"
            )
        signatures = {name: read_base(path / "signatures", name, content["tasks"][name]) for name in names}
        bundle = cls(
            path=path, spec=spec, tensors=MappingProxyType(arrays), digest=digest, signatures=MappingProxyType(signatures),
            training=read_mapping(content, "training", path), reading=reading,
        )  # fmt: skip
        bundle._check_signatures()
        if content["format"] != OLD:  # the old format states no inputs
            bundle._check_inputs(content["tasks"])
        if not with_compiled:
            return bundle
        return dataclasses.replace(bundle, compiled=load_compiled(path, spec=spec, digest=digest, trained=signatures))

    def base(self, task: str) -> Signature:
        """Return a task's base signature: the compiled one, or the trained one if the bundle is not compiled.

        Raises:
            BundleError: If there is no such task.
        """
        if task not in self.signatures:
            raise BundleError(f"there is no task {task!r} in {self.path}; it has {', '.join(self.signatures)}")
        return (self.compiled.signatures if self.compiled else self.signatures)[task]

    def chosen(self, *, task: str | None, file: Path | None) -> Signature:
        """Return a signature that a command's flags select.

        Args:
            task: Name of a task, for its base signature, or None.
            file: Path of a signature file, or None.

        Raises:
            UsageError: If neither is given and there are several tasks.
            BundleError: If there is no such task.
            SignatureError: If the file cannot be used.
        """
        if file is not None:
            signature = Signature.load(file)
            signature.check_fits(self.spec, self.digest, name=str(file))
            return signature
        if task is None and len(self.signatures) > 1:
            raise UsageError(
                f"the bundle has {len(self.signatures)} tasks; choose one with --task: {', '.join(self.signatures)}"
            )
        return self.base(task or next(iter(self.signatures)))

    def bases(self) -> dict[str, Signature]:
        """Return digest → base signature, trained and compiled ones: all that a signature can inherit from."""
        compiled = self.compiled.signatures.values() if self.compiled else ()
        return {base.digest: base for base in (*self.signatures.values(), *compiled)}

    def base_of(self, signature: Signature) -> Signature | None:
        """Return the base that a signature inherits absent parts from; None if it names none or the bundle does not have it."""
        for signatures in (self.signatures, self.compiled.signatures if self.compiled else {}):
            base = signatures.get(signature.task)
            if base is not None and base.digest == signature.base:
                return base
        return None

    def require_compiled(self) -> Compiled:
        """Return the compiled part. Raises ``BundleError``, with the command to run, if the bundle is not compiled."""
        if self.compiled is None:
            raise BundleError(f"{self.path} is not compiled; run 'isoform compile {self.path}'")
        return self.compiled

    def labels(self, signature: Signature) -> tuple[str, ...]:
        """Return a signature's class names: its own, or those of its base.

        Raises:
            SignatureError: If their number differs from the rows of its logits layer.
        """
        labels = signature.labels or self._inherited(signature).labels or ()
        rows = signature.parts.get("logits.bias")
        if rows is None:
            rows = self._inherited(signature).parts["logits.bias"]
        if len(labels) != len(rows):
            raise SignatureError(
                f"signature {signature.digest[:8]} has {len(labels)} labels for {len(rows)} classes; create it again with one label per class"
            )
        return labels

    def resolve(self, signature: Signature) -> Resolved:
        """Complete a signature: absent parts are inherited from its base, or computed from other parts and the templates.

        Raises:
            SignatureError: If it was made for different templates, does not fit, or inherits from a base that the bundle does not have.
        """
        signature.check_fits(self.spec, self.digest)
        parts = dict(signature.parts)
        absent = set(self.spec.part_shapes) - set(parts)
        # inherited before computed: a base may hold its own version of a part that could be computed
        if self.spec.required_of(signature.task) & absent or (absent and self.base_of(signature) is not None):
            parts = {**self._inherited(signature).parts, **parts}
        labels = self.labels(signature)
        return Resolved(signature=signature, parts=self.network.complete(signature.task, parts), labels=labels)

    def graph(self, resolved: Resolved) -> tuple[str, Graph]:
        """Return the fastest compiled graph that can run a signature, with its name.

        Raises:
            BundleError: If the bundle is not compiled, or has no graph for the signature.
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
            f"the bundle has {' and '.join(here)}; create the signature again from this bundle's base"
        )
