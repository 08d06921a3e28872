"""Signatures: the parameters of one task, user or domain, as an immutable object and as a file.

Parts are named arrays, all optional, of floats, integers or bits (``numbers.py``). The kind defines their names
(``isoform.runtime.kind``); every kind has a logits layer, logits.weight (classes, embedding) and logits.bias (classes,).
An absent part is inherited from the base signature of the task, whose digest the file then contains.

The file is a canonical tensor file (``tensors.py``) with the metadata format, kind, template (digest of the templates it was
made for) and task; optionally base, parent, labels (a JSON list), bits (a JSON object, shapes of bit parts) and created; and
digest, the sha256 over the file with 64 zeros in place of the digest. The digest covers every other byte, so any modified file is
rejected.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import IsoformError, SignatureError
from isoform.runtime.formats import files, tensors
from isoform.runtime.formats.metadata import read_bits, read_labels, to_text
from isoform.runtime.formats.numbers import in_file, in_memory
from isoform.runtime.kind import DEFAULT, Kind, Spec, kind_named

__all__ = ["Signature", "check_labels", "check_name"]

FORMATS = ("1", "2")
"""Files with floats only have the first format, which every version reads; files with integers or bits the second."""
SIZE_LIMIT = 64 << 20
"""Maximum size of a signature file, in bytes."""

Precision = Literal["float32", "float16"]
_METADATA = {"format", "kind", "template", "task", "base", "parent", "labels", "bits", "created", "digest"}
_HEX64 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: object, *, what: str = "task") -> str:
    """Check the name of a task: 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit.

    Raises:
        SignatureError: If it is anything else.
    """
    # Names become file names and parts of URLs: a "/", a leading "." or a "%" would be a path traversal or a broken link.
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SignatureError(
            f"{what} is named {name!r}, but 1 to 64 letters, digits, '.', '_' or '-' were expected, the first a letter or digit"
        )
    return name


def check_labels(labels: Sequence[object], *, error: type[IsoformError], what: str) -> tuple[str, ...]:
    """Check class names: distinct strings of 1 to 256 characters that can be encoded as UTF-8.

    Raises:
        IsoformError: Of the class ``error``, if they are anything else.
    """
    names = [label for label in labels if isinstance(label, str) and 0 < len(label) <= 256 and _is_utf8(label)]
    if len(names) != len(labels) or len(set(names)) != len(names):
        raise error(f"{what} has labels {[*labels][:12]!r}, but distinct strings of 1 to 256 characters were expected")
    return tuple(names)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# eq=False: the generated comparison would compare arrays, whose == has no single truth value
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Signature:
    """The parameters of one task, user or domain. Immutable; two signatures are equal if their files are.

    Raises:
        SignatureError: If a part has the wrong rank or dtype or is not finite, a variance is negative, or a
            name or digest is malformed. ``check_fits`` checks whether it *fits* a bundle.
    """

    parts: Mapping[str, Array]
    """Part name → array, read-only; float parts are float32."""
    template: str
    """Digest of the templates that it was made for, 64 hex digits."""
    task: str
    """The task whose base parts and labels it inherits."""
    base: str | None = None
    """Digest of the base signature for absent parts; None if nothing is inherited."""
    parent: str | None = None
    """Digest of the signature that it was derived from."""
    labels: tuple[str, ...] | None = None
    """Class names; None to inherit the task's."""
    created: str | None = None
    """Time of creation, ISO 8601; None for reproducible bytes."""
    precision: Precision = "float32"
    """Precision of float parts in the file."""
    kind: str = DEFAULT

    def __post_init__(self) -> None:
        """Check everything that needs no bundle, and make the arrays read-only."""
        kind = self._kind
        if self.precision not in ("float32", "float16"):
            raise SignatureError(f"precision is {self.precision!r}, but 'float32' or 'float16' was expected")
        check_name(self.task)
        for name in ("template", "base", "parent"):
            value = getattr(self, name)
            if (value is not None or name == "template") and (
                not isinstance(value, str) or not _HEX64.fullmatch(value)
            ):
                raise SignatureError(
                    f"a signature's {name} digest is {value!r}, but 64 lower-case hex digits were expected"
                )
        if self.labels is not None:
            object.__setattr__(self, "labels", check_labels(self.labels, error=SignatureError, what="a signature"))
        if self.created is not None and not (isinstance(self.created, str) and _is_utf8(self.created)):
            raise SignatureError(f"a signature's date is {self.created!r}, but a string was expected")
        parts: dict[str, Array] = {}
        for name in kind.parts:
            if name in self.parts:
                # a copy: the caller's array must stay writable
                parts[name] = self._checked(name, np.array(self.parts[name], order="C"))
        unknown = sorted(set(self.parts) - set(kind.parts))
        if unknown or not parts:
            raise SignatureError(
                f"a signature of kind {self.kind!r} holds {sorted(self.parts)}, but one or more of {', '.join(kind.parts)} were expected"
            )
        if ("logits.weight" in parts) != ("logits.bias" in parts):
            raise SignatureError(
                "a signature holds half a logits layer; logits.weight and logits.bias are required together"
            )
        if "logits.bias" in parts:
            classes = parts["logits.bias"].shape[0]
            if parts["logits.weight"].shape[0] != classes or (self.labels is not None and len(self.labels) != classes):
                raise SignatureError(
                    f"a signature's logits layer has {parts['logits.weight'].shape[0]} rows, {classes} biases and "
                    f"{'no' if self.labels is None else len(self.labels)} labels, but these numbers must be equal"
                )
        object.__setattr__(self, "parts", MappingProxyType(parts))

    @functools.cached_property
    def _kind(self) -> Kind:
        return kind_named(self.kind, error=lambda text: SignatureError(f"a signature {text}"))

    @property
    def _format(self) -> str:
        plain = all(self._kind.parts[name].numbers == "float" for name in self.parts)
        return FORMATS[0] if plain else FORMATS[1]

    def _checked(self, name: str, array: Array) -> Array:
        array = in_memory(name, array, self._kind.parts[name], precision=self.precision)
        self._kind.check_part(name, array)
        return array

    # --- identity -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over the file's bytes with zeros in place of the digest, 64 hex digits."""
        return hashlib.sha256(self._encode_with("0" * 64)).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signature) and self.encode() == other.encode()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<Signature {self.task} {self.digest[:8]} of templates {self.template[:8]}: {', '.join(self.parts)}>"

    # --- derived signatures -------------------------------------------------------------------------------------------

    def replace(self, **changes: object) -> Self:
        """Return a copy with other fields. ``parent`` becomes this signature's digest unless given."""
        return dataclasses.replace(self, **{"parent": self.digest, **changes})  # type: ignore[arg-type]

    def to(self, precision: Precision) -> Self:
        """Return a copy stored in ``precision``; float16 rounds the values and halves the size."""
        return self.replace(precision=precision)

    def keep(self, *names: str) -> Self:
        """Return a copy of a base signature with only these parts, which inherits the others from this signature.

        A user's signature cannot be a base, so all of its own parts must be kept;
        ``isoform.runtime.formats.inheritance.reduced`` drops those that are equal to its base's.

        Args:
            names: Parts to keep; a part that this signature inherits stays inherited.

        Raises:
            SignatureError: If there is no such part, or this is a user's signature and one of its own parts would be lost.
        """
        unknown = [name for name in names if name not in self._kind.parts]
        if unknown:
            raise SignatureError(f"a signature has no part {unknown[0]!r}; its parts are {', '.join(self._kind.parts)}")
        kept = {name: array for name, array in self.parts.items() if name in names}
        lost = [name for name in self.parts if name not in kept]
        if lost and self.base is not None:
            raise SignatureError(
                f"signature {self.digest[:8]} has its own {', '.join(lost)}, which keep() would replace by those of base {self.base[:8]}, "
                "because only a base can be inherited from; keep these too, or start from the base"
            )
        labels = self.labels if self.base is not None or "logits.weight" in kept else None
        return self.replace(parts=kept, base=self.base or self.digest, labels=labels)

    def __reduce__(self) -> tuple[Callable[[bytes], Self], tuple[bytes]]:
        """Copy and pickle as the file's bytes, so that unpickling verifies the digest."""
        return type(self).decode, (self.encode(),)

    # --- fitting a bundle ---------------------------------------------------------------------------------------------

    def check_fits(self, spec: Spec, template: str, *, name: str = "") -> None:
        """Reject a signature that was made for different templates or another network.

        Args:
            spec: The network's sizes.
            template: Digest of the loaded templates.
            name: Name of the signature in messages; its task if empty.

        Raises:
            SignatureError: If it does not fit; the message has both sides, and the remedy.
        """
        who = f"signature {name or self.task!r}"
        if self.template != template:
            raise SignatureError(
                f"{who} was trained on templates {self.template[:8]}, but {template[:8]} are loaded; "
                "open the bundle that it was made for, or train the signature again on this one"
            )
        if self.kind != spec.kind:
            raise SignatureError(
                f"{who} is of kind {self.kind!r}, but the network of kind {spec.kind!r}; it belongs to another bundle"
            )
        if foreign := sorted(self.parts.keys() - spec.part_shapes.keys()):
            raise SignatureError(
                f"{who} holds {foreign[0]}, which this network does not have; it belongs to another bundle"
            )
        for part, shape in spec.part_shapes.items():
            if part in self.parts:
                found = self.parts[part].shape
                if len(found) != len(shape) or any(w is not None and w != f for w, f in zip(shape, found, strict=True)):
                    expected = tuple("any" if w is None else w for w in shape)
                    raise SignatureError(
                        f"{who} holds {part} of shape {found}, but the network expects {expected}; it belongs to another bundle"
                    )

    # --- file ---------------------------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """Return the file's content; the same signature gives the same bytes on every machine."""
        return self._encode_with(self.digest)

    def _encode_with(self, digest: str) -> bytes:
        kinds = {name: self._kind.parts[name] for name in self.parts}
        bits = {name: list(self.parts[name].shape) for name in sorted(kinds) if kinds[name].numbers == "bit"}
        metadata = {
            "format": self._format, "kind": self.kind, "template": self.template, "task": self.task, "digest": digest,
        }  # fmt: skip
        optional = {"base": self.base, "parent": self.parent, "created": self.created}
        metadata.update({name: value for name, value in optional.items() if value is not None})
        if self.labels is not None:
            metadata["labels"] = to_text(list(self.labels))
        if bits:
            metadata["bits"] = to_text(bits)
        arrays = {name: in_file(array, kinds[name], precision=self.precision) for name, array in self.parts.items()}
        return tensors.encode(arrays, metadata)

    @classmethod
    def decode(cls, data: bytes, *, name: str = "signature") -> Self:
        """Decode a signature file.

        Args:
            data: The file's content.
            name: Name of the file in messages, such as its path.

        Raises:
            SignatureError: If any byte differs from what ``encode`` writes, or the content is malformed.
        """
        arrays, metadata = tensors.decode(data, error=SignatureError, what=name)
        if metadata.get("format") not in FORMATS:
            raise SignatureError(
                f"{name} has format {metadata.get('format')!r}, but this version reads {' and '.join(FORMATS)}; use a matching isoform"
            )
        if not set(metadata) <= _METADATA:
            raise SignatureError(
                f"{name} has unknown metadata {sorted(set(metadata) - _METADATA)}; use a matching isoform"
            )
        dtypes = {array.dtype for array in arrays.values() if array.dtype.kind == "f"}
        if len(dtypes) > 1:
            raise SignatureError(
                f"{name} mixes {' and '.join(sorted(map(str, dtypes)))}, but one precision was expected"
            )
        try:
            bits = read_bits(metadata.get("bits"), arrays)
            signature = cls(
                parts={**arrays, **bits},
                template=metadata.get("template", ""),
                task=metadata.get("task", ""),
                base=metadata.get("base"),
                parent=metadata.get("parent"),
                labels=read_labels(metadata.get("labels")),
                created=metadata.get("created"),
                precision="float16" if np.dtype(np.float16) in dtypes else "float32",
                kind=metadata.get("kind", ""),
            )
        except SignatureError as problem:
            raise SignatureError(f"{name}: {problem}") from None
        for part, array in arrays.items():
            stored = in_file(signature.parts[part], signature._kind.parts[part], precision=signature.precision).dtype
            if array.dtype != stored:
                raise SignatureError(
                    f"{name} holds {part} as {array.dtype}, but {stored} was expected; it was changed after isoform wrote it"
                )
        if metadata["format"] != signature._format:
            raise SignatureError(
                f"{name} has format {metadata['format']}, but its content has another; it was changed after isoform wrote it"
            )
        # File, numbers and metadata have been checked to be canonical, so if the digest is right these are the bytes that encode() writes.
        stated = metadata.get("digest", "")
        found = hashlib.sha256(data.replace(_digest_field(stated), _digest_field("0" * 64), 1)).hexdigest()
        if found != stated:
            raise SignatureError(
                f"{name} does not match its digest: it states {stated[:8] or 'none'}, but its content has {found[:8]}; "
                "it is damaged or was changed, fetch it again"
            )
        # fills the cached property, which would otherwise encode the file once more
        signature.__dict__["digest"] = stated
        return signature

    def save(self, path: str | Path) -> None:
        """Write the file atomically. Raises ``IsoformError`` if it cannot be written."""
        files.write_bytes(Path(path), self.encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file. Raises ``SignatureError`` as ``decode``, or if it is missing."""
        data = files.read_bytes(Path(path), limit=SIZE_LIMIT, error=SignatureError, what="signature")
        return cls.decode(data, name=str(path))


def _digest_field(digest: str) -> bytes:
    """Return the bytes of the digest's entry in the header."""
    # cannot occur anywhere else before it: inside a JSON string the quotes would be escaped
    return f'"digest":"{digest}"'.encode()
