"""The input of a network: name, dtype, and a shape whose lengths may be fixed or open.

    image     float32, channels × height × width        window   float32, channels × steps
    vector    float32, features                         tokens   int64, token ids of a vocabulary

All samples of a batch have the same length; it may differ between batches.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from isoform.runtime.arrays import Array, all_finite
from isoform.runtime.errors import InputError, SpecError
from isoform.runtime.inputs.checks import is_whole

__all__ = ["AXES", "Input", "What"]

What = Literal["image", "window", "vector", "tokens"]
AXES: Mapping[What, tuple[str, ...]] = {
    "image": ("channels", "height", "width"), "window": ("channels", "steps"), "vector": ("features",), "tokens": ("tokens",),
}  # fmt: skip
"""Type of sample → names of its axes."""
RESERVED = ("label", "labels", "logits")
"""Names that graphs, requests and files use for something else."""
LARGEST = 65536
"""Maximum length of an axis."""
NUMBERS = 1 << 28  # 1 GiB of float32: a bundle from elsewhere must not make a reader allocate without bound
"""Maximum number of values in one sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """Description of a network's input. Raises ``SpecError`` on a size out of range."""

    what: What
    shape: tuple[int | None, ...]
    """Shape of one sample, without the batch axis; None for an open length, ``shortest`` to ``longest``."""
    name: str = "image"
    """Name of the input in the graphs and in HTTP requests."""
    shortest: int = 1
    """Minimum of open lengths."""
    longest: int = 4096
    """Maximum of open lengths."""
    vocabulary: int | None = None
    """Number of different tokens; ids are 0 to ``vocabulary - 1``. None for inputs other than tokens."""

    def __post_init__(self) -> None:
        """Check every field. The message names the one that is out of range."""
        if self.what not in AXES:
            raise SpecError(f"the type of an input is {self.what!r}, but one of {', '.join(AXES)} was expected")
        axes = AXES[self.what]
        sizes = [size for size in self.shape if size is not None]
        if len(self.shape) != len(axes) or not all(is_whole(size, 1, LARGEST) for size in sizes):
            raise SpecError(
                f"the shape of an input of {self.what} is {list(self.shape)}, but {', '.join(axes)} were expected, each 1 to {LARGEST} or open"
            )
        if not (is_whole(self.longest, 1, LARGEST) and is_whole(self.shortest, 1, self.longest)):
            raise SpecError(
                f"open lengths are {self.shortest!r} to {self.longest!r}, but whole numbers from 1 to {LARGEST} were expected"
            )
        if math.prod(self.largest) > NUMBERS:
            raise SpecError(
                f"one sample would have {math.prod(self.largest):,} numbers, but at most {NUMBERS:,} are supported"
            )
        if (self.what == "tokens") != is_whole(self.vocabulary, 1, 1 << 31) or (
            self.what != "tokens" and self.vocabulary is not None
        ):
            raise SpecError(
                f"the vocabulary is {self.vocabulary!r}, but a whole number was expected for tokens, and None for other inputs"
            )
        # an identifier needs no quoting in graphs, JSON or forms
        if not (isinstance(self.name, str) and self.name.isidentifier() and self.name.isascii()):
            raise SpecError(f"an input's name is {self.name!r}, but letters, digits and _ were expected")
        if self.name in RESERVED:
            raise SpecError(f"an input's name is {self.name!r}, which is reserved; choose another name")

    @property
    def dtype(self) -> type[np.float32] | type[np.int64]:
        """numpy dtype of the samples."""
        return np.int64 if self.what == "tokens" else np.float32

    @property
    def largest(self) -> tuple[int, ...]:
        """Shape of the largest sample."""
        return tuple(self.longest if size is None else size for size in self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the largest sample in bytes."""
        return math.prod(self.largest) * np.dtype(self.dtype).itemsize

    @property
    def plural(self) -> str:
        """Plural of ``what``, for messages."""
        return f"{self.what.removesuffix('s')}s"

    @property
    def open(self) -> bool:
        """Whether the input has open lengths."""
        return None in self.shape

    def __str__(self) -> str:
        """Return the shape of a batch for messages: ``(n, 3, 224, 224)``; an open length reads ``1…4096``."""
        sizes = [f"{self.shortest}…{self.longest}" if size is None else str(size) for size in self.shape]
        return f"(n, {', '.join(sizes)})"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a sample of that shape is valid."""
        return len(shape) == len(self.shape) and all(
            self.shortest <= have <= self.longest if size is None else have == size
            for have, size in zip(shape, self.shape, strict=True)
        )

    def checked(self, x: object, *, where: str = "") -> Array:
        """Check samples and convert them to what engines need.

        Args:
            x: Samples, array-like.
            where: Origin of the samples, for messages: `` of data.npz``.

        Returns:
            Shape (n, …), of ``dtype``, C-contiguous; a copy only where necessary.

        Raises:
            InputError: If they have the wrong shape, are not numeric, are not finite, or hold a token outside the vocabulary.
        """
        try:
            array = np.asarray(x)
        except ValueError:
            raise InputError(f"the samples{where} are a ragged list, but numbers of one shape were expected") from None
        array = self._with_unit_axes(array)
        if array.ndim < 1 or not self.fits(array.shape[1:]):
            raise InputError(
                f"the samples{where} have shape {array.shape}, but {self} was expected: n samples of {', '.join(AXES[self.what])}"
            )
        if self.what == "tokens":
            return self._tokens(array, where)
        if array.dtype.kind not in "fiub":
            raise InputError(f"the samples{where} are {array.dtype}, but float32 was expected")
        if array.dtype != np.float32:
            # float64 beyond float32's range becomes inf without a warning; the next check reports its sample
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
        array = np.ascontiguousarray(array)
        # NaN reaches the logits of its own sample only, but learning would average it into the signature
        if not all_finite(array):
            finite = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
            raise InputError(
                f"sample {int(np.argmin(finite))}{where} holds a number that is not finite in float32; remove or repair the sample"
            )
        return array

    def _with_unit_axes(self, array: Array) -> Array:
        """Accept windows (n, channels, steps) and vectors (n, features) for networks that take them as images of one row, or of one pixel."""
        if self.what == "image" and 2 <= array.ndim < 4 and self.shape[1] == 1:
            channels, _, width = self.shape
            if array.shape[1:] in ((channels, width), (channels,) if width == 1 else ()):
                return array.reshape(len(array), *self.largest)
        return array

    def _tokens(self, array: Array, where: str) -> Array:
        if array.dtype.kind not in "iu":
            raise InputError(f"the samples{where} are {array.dtype}, but whole numbers (token ids) were expected")
        # ONNX's Gather counts negative indices from the end, so -1 would silently be the last token
        known = ((array >= 0) & (array < (self.vocabulary or 0))).all(axis=tuple(range(1, array.ndim)))
        if not known.all():
            raise InputError(
                f"sample {int(np.argmin(known))}{where} holds a token outside 0 to {(self.vocabulary or 0) - 1}; use the tokenizer "
                "that the network was trained with"
            )
        return np.ascontiguousarray(array, dtype=np.int64)

    def random(self, rng: np.random.Generator, samples: int, *, length: int | None = None) -> Array:
        """Return random valid samples: numbers from -1 to 1, or any tokens; open lengths are ``length``, by default at most 64."""
        long = max(self.shortest, min(self.longest, 64)) if length is None else length
        shape = (samples, *(long if size is None else size for size in self.shape))
        if self.what == "tokens":
            return rng.integers(0, self.vocabulary or 1, shape, dtype=np.int64)
        return rng.uniform(-1, 1, shape).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types, without those that do not apply; ``from_json`` is the inverse."""
        lengths = {"shortest": self.shortest, "longest": self.longest} if self.open else {}
        tokens = {} if self.vocabulary is None else {"vocabulary": self.vocabulary}
        return {"name": self.name, "what": self.what, "shape": list(self.shape), **lengths, **tokens}

    @classmethod
    def from_json(cls, value: object) -> Input:
        """Read what ``to_json`` returned. Raises ``SpecError`` if it is malformed."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, Mapping) or not {"name", "what", "shape"} <= set(value) <= names:
            raise SpecError(f"an input is {value!r:.100}, but an object with name, what and shape was expected")
        if not isinstance(value["shape"], list):
            raise SpecError(f"an input's shape is {value['shape']!r:.100}, but a list was expected")
        return cls(**{**value, "shape": tuple(value["shape"])})
