"""A signature in about ten lines for a person, and a folder of signatures as a list."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isoform.runtime.arithmetic import distance
from isoform.runtime.commands.inspecting.facts import ENDING, describe_signature, described
from isoform.runtime.commands.inspecting.usage import usage_text
from isoform.runtime.errors import IsoformError, SignatureError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.numbers import in_file
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import kind_named
from isoform.runtime.samples.account import plural
from isoform.runtime.samples.names import text_of
from isoform.runtime.tables import aligned, cut, named, size, tail

__all__ = [
    "SHORT",
    "labels_text",
    "layers_of",
    "read_folder",
    "signature_json",
    "signature_lines",
    "signatures_json",
    "signatures_lines",
]

SHORT = 8
"""Hex digits of a digest that are enough to tell files apart."""
MOST = 200
"""Signatures of a folder up to which each is compared with every other."""


def signature_lines(signature: Signature, *, name: str, bundle: Bundle | None) -> list[str]:
    """Describe a signature.

    Args:
        signature: The signature.
        name: Its file.
        bundle: The bundle that it was made for, for what the file does not say; None if it is not known.

    Raises:
        SignatureError: If it does not fit the bundle.
    """
    base = None if bundle is None else bundle.base(signature.task)
    gap = None if bundle is None or base is None else distance(bundle, signature, base)
    lines = [
        *named("signature", f"{tail(name)}: {size(len(signature.encode()))}, {signature.precision}"),
        *named("task", f"{signature.task}, of a network of kind {signature.kind}"),
        *named("classes", _classes(signature, bundle), lines=2),
        *named("templates", layers_of(signature, bundle) or "those of its base; name the bundle with --bundle to see them", lines=4),
    ]  # fmt: skip
    if moved := _moved(signature):
        lines += named("numbers", moved)
    lines += named("parts", _parts(signature))
    if signature.base is None:
        lines += named("inherits", "nothing: it is complete")
    else:
        parts = "all other parts" if bundle is None else ", ".join(_inherited(signature, bundle)) or "nothing"
        lines += named("inherits", f"{parts} from {_named(signature.base, bundle)}")
    if signature.parent is not None:
        lines += named("made from", _named(signature.parent, bundle) + _when(signature))
    elif signature.created is not None:
        lines += named("made", signature.created)
    if gap is not None:
        lines += named("distance", f"{gap:.4f} to the base of {signature.task}, from 0, the same, to 1")
    return [*lines, *named("digest", signature.digest), *named("for", f"the shared templates {signature.template}")]


def labels_text(labels: tuple[str, ...]) -> str:
    """Return number and names of classes."""
    return f"{len(labels)}: {', '.join(cut(label, 30) for label in labels[:40])}" + (", …" if labels[40:] else "")


def layers_of(signature: Signature, bundle: Bundle | None) -> str | None:
    """Return which templates a signature uses, as text; None if it inherits that, and the bundle is not known."""
    kind = kind_named(signature.kind, error=SignatureError)
    parts: Mapping[str, Any] = signature.parts if bundle is None else bundle.resolve(signature).parts
    return usage_text(kind.usage(parts)) if kind.smallest in parts else None


def read_folder(folder: Path, *, bundle: Bundle | None) -> tuple[dict[str, Signature], dict[str, str]]:
    """Read all signatures in a folder, by the names of their files; and the files that cannot be read, or are not of the bundle, with the reason."""
    found, bad = dict[str, Signature](), dict[str, str]()
    for path in sorted(folder.glob(f"*{ENDING}")):
        name = text_of(path.name.removesuffix(ENDING))
        try:
            signature = Signature.load(path)
            if bundle is not None:
                signature.check_fits(bundle.spec, bundle.digest, name=text_of(path))
                bundle.resolve(signature)
            found[name] = signature
        except IsoformError as problem:
            bad[name] = str(problem)
    return found, bad


def signatures_lines(signatures: Mapping[str, Signature], *, folder: str, bundle: Bundle | None) -> list[str]:
    """List signatures, with distances if their bundle is known, which they fit."""
    total = sum(len(signature.encode()) for signature in signatures.values())
    count = len(signatures)
    lines = [*named("folder", f"{tail(folder)}: {plural(count, 'signature')}, {size(total)}"), ""]
    columns, rows = ["signature", "task", "bytes"], [
        [name, signature.task, f"{len(signature.encode()):,}"] for name, signature in signatures.items()
    ]  # fmt: skip
    left = [0, 1]
    if bundle is not None:
        columns += ["to base", "to nearest", "nearest"]
        left.append(5)
        for row, found in zip(rows, _distances(signatures, bundle).values(), strict=True):
            near = found["nearest"]
            row += [
                f"{found['to_base']:.4f}",
                "-" if near is None else f"{near[1]:.4f}",
                "" if near is None else near[0],
            ]
    columns.append("templates")
    left.append(len(columns) - 1)
    for row, signature in zip(rows, signatures.values(), strict=True):
        row.append(layers_of(signature, bundle) or "those of its base")
    lines += aligned(columns, rows, left=left)
    if bundle is None:
        lines += ["", "Name their bundle with --bundle for distances to the base and the nearest other."]
    elif count > MOST:
        lines += ["", f"The nearest is not searched for among more than {MOST} signatures."]
    return lines


def signature_json(signature: Signature, *, bundle: Bundle | None) -> dict[str, Any]:
    """Return what is in a signature as JSON types; if its bundle is known, also what it inherits, and its distance to its task's base.

    Raises:
        SignatureError: If it does not fit the bundle.
    """
    told = described(signature)
    if bundle is None:
        return told
    gap = distance(bundle, signature, bundle.base(signature.task))
    return {
        **told,
        "inherits": _inherited(signature, bundle),
        "all_labels": [*bundle.labels(signature)],
        "to_base": gap,
    }


def signatures_json(signatures: Mapping[str, Signature], *, bundle: Bundle | None) -> dict[str, Any]:
    """Return what is listed as JSON types."""
    gaps = {} if bundle is None else _distances(signatures, bundle)
    told = {
        name: {"size_bytes": len(signature.encode()), **describe_signature(signature), **gaps.get(name, {})}
        for name, signature in signatures.items()
    }
    return {"what": "signatures", "signatures": told}


def _distances(signatures: Mapping[str, Signature], bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Return name → its distance to its task's base, and the nearest other with its distance, if there is one."""
    parts = {name: bundle.resolve(signature).parts for name, signature in signatures.items()}
    gaps: dict[str, list[tuple[float, str]]] = {name: [] for name in parts}
    for one, other in itertools.combinations(parts, 2) if len(parts) <= MOST else ():
        gap = bundle.kind.distance(parts[one], parts[other])
        gaps[one].append((gap, other))
        gaps[other].append((gap, one))
    found = {}
    for name, signature in signatures.items():
        near = min(gaps[name], key=lambda gap: gap[0], default=None)
        base = bundle.resolve(bundle.base(signature.task)).parts
        found[name] = {
            "to_base": bundle.kind.distance(parts[name], base), "nearest": None if near is None else [near[1], near[0]],
        }  # fmt: skip
    return found


def _inherited(signature: Signature, bundle: Bundle) -> list[str]:
    """Return the names of the parts that a signature has from its base; none if it is complete."""
    origin = bundle.base_of(signature)
    return (
        []
        if origin is None or signature.base is None
        else [part for part in origin.parts if part not in signature.parts]
    )


def _classes(signature: Signature, bundle: Bundle | None) -> str:
    if signature.labels is not None:
        return labels_text(signature.labels)
    return "those of its base" if bundle is None else f"{labels_text(bundle.labels(signature))}; those of its base"


def _moved(signature: Signature) -> str:
    """Return the kind's description, as far as it is single numbers."""
    told = []
    for name, value in kind_named(signature.kind, error=SignatureError).describe(signature.parts).items():
        if isinstance(value, Mapping):
            told.append(f"{name}: " + ", ".join(f"{what} {number:,}" for what, number in value.items()))
        elif isinstance(value, int | float):
            told.append(f"{name.replace('_', ' ')} {value:,}")
    return "; ".join(told)


def _parts(signature: Signature) -> str:
    """Return the bytes of each part in the file, and of what is around them."""
    kind, sizes = kind_named(signature.kind, error=SignatureError), {}
    for name, array in signature.parts.items():
        sizes[name] = in_file(array, kind.parts[name], precision=signature.precision).nbytes
    shapes = {name: "×".join(map(str, array.shape)) for name, array in signature.parts.items()}
    told = [f"{name} {shapes[name]}: {size(count)}" for name, count in sizes.items()]
    return ", ".join([*told, f"header: {size(len(signature.encode()) - sum(sizes.values()))}"])


def _named(digest: str, bundle: Bundle | None) -> str:
    """Return a digest's beginning, and what the bundle knows it as."""
    base = None if bundle is None else bundle.bases().get(digest)
    if bundle is None or base is None:
        return digest[:SHORT]
    trained = bundle.compiled is not None and bundle.signatures[base.task].digest == digest
    return f"{digest[:SHORT]}, the base of {base.task}{', as it was trained' if trained else ''}"


def _when(signature: Signature) -> str:
    return "" if signature.created is None else f", {signature.created}"
