"""What a network takes: one input with a name, a type and a shape of which lengths may be open.

    image     float32, channels × height × width        window   float32, channels × steps
    vector    float32, features                         tokens   int64, numbers of a vocabulary

All samples of one batch have one length; another batch may have another.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError, SpecError

__all__ = ["AXES", "Input", "What"]

What = Literal["image", "window", "vector", "tokens"]
AXES: Mapping[What, tuple[str, ...]] = {
    "image": ("channels", "height", "width"), "window": ("channels", "steps"), "vector": ("features",), "tokens": ("tokens",),
}  # fmt: skip
"""What a sample may be → what its axes are."""
LARGEST = 65536
"""Of an axis."""
NUMBERS = 1 << 28
"""Most numbers of one sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """A network's input. Raises ``SpecError`` on a size out of range."""

    what: What
    shape: tuple[int | None, ...]
    """Of one sample, without the batch; None where any length from ``shortest`` to ``longest`` will do."""
    name: str = "image"
    """Of the graphs' input, and of the HTTP server's."""
    shortest: int = 1
    """Of open lengths."""
    longest: int = 4096
    """Of open lengths."""
    vocabulary: int | None = None
    """How many different tokens there are: numbers from 0 to ``vocabulary - 1``. None for what is no tokens."""

    def __post_init__(self) -> None:
        """Check every field, and say which one is out of range."""
        if self.what not in AXES:
            raise SpecError(f"an input is of {', '.join(AXES)}, but {self.what!r} came")
        axes = AXES[self.what]
        sizes = [size for size in self.shape if size is not None]
        if len(self.shape) != len(axes) or not all(_whole(size, 1, LARGEST) for size in sizes):
            raise SpecError(
                f"the shape of an input of {self.what} is {list(self.shape)}, but {', '.join(axes)} were expected, each 1 to {LARGEST} or open"
            )
        if not (_whole(self.longest, 1, LARGEST) and _whole(self.shortest, 1, self.longest)):
            raise SpecError(
                f"open lengths go from {self.shortest!r} to {self.longest!r}, but whole numbers from 1 to {LARGEST} were expected"
            )
        if math.prod(self.largest) > NUMBERS:
            raise SpecError(
                f"one sample would have {math.prod(self.largest):,} numbers, but at most {NUMBERS:,} are read"
            )
        if (self.what == "tokens") != _whole(self.vocabulary, 1, 1 << 31) or (
            self.what != "tokens" and self.vocabulary is not None
        ):
            raise SpecError(
                f"the vocabulary is {self.vocabulary!r}, but a number of tokens was expected for tokens, and none otherwise"
            )
        if not (isinstance(self.name, str) and self.name.isidentifier() and self.name.isascii()):
            raise SpecError(f"an input's name is {self.name!r}, but letters, digits and _ were expected")

    @property
    def dtype(self) -> type[np.float32] | type[np.int64]:
        """numpy's type of its numbers."""
        return np.int64 if self.what == "tokens" else np.float32

    @property
    def largest(self) -> tuple[int, ...]:
        """The shape of the largest sample."""
        return tuple(self.longest if size is None else size for size in self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the largest sample."""
        return math.prod(self.largest) * np.dtype(self.dtype).itemsize

    @property
    def plural(self) -> str:
        """``what``, of many: for messages."""
        return f"{self.what.removesuffix('s')}s"

    @property
    def open(self) -> bool:
        """Whether lengths may vary."""
        return None in self.shape

    def __str__(self) -> str:
        """The shape of a batch, as messages have it: ``(n, 3, 224, 224)``; open lengths are ``1…4096``."""
        sizes = [f"{self.shortest}…{self.longest}" if size is None else str(size) for size in self.shape]
        return f"(n, {', '.join(sizes)})"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a sample of that shape can be taken."""
        return len(shape) == len(self.shape) and all(
            self.shortest <= have <= self.longest if size is None else have == size
            for have, size in zip(shape, self.shape, strict=True)
        )

    def checked(self, x: object, *, where: str = "") -> Array:
        """Samples as every engine needs them.

        Args:
            x: What came.
            where: Where they are from, for messages: `` of data.npz``.

        Returns:
            Shape (n, …), of ``dtype``, C-contiguous; a copy only if it must be.

        Raises:
            InputError: If they have another shape, are no numbers, or one is not finite or no token.
        """
        try:
            array = np.asarray(x)
        except ValueError:
            raise InputError(f"the samples{where} are a ragged list, but numbers of one shape were expected") from None
        if array.ndim < 1 or not self.fits(array.shape[1:]):
            raise InputError(
                f"the samples{where} have shape {array.shape}, but {self} was expected: n samples of {', '.join(AXES[self.what])}"
            )
        if self.what == "tokens":
            return self._tokens(array, where)
        if array.dtype.kind not in "fiub":
            raise InputError(f"the samples{where} are {array.dtype}, but float32 was expected")
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, dtype=np.float32)
        finite = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        if not finite.all():
            raise InputError(
                f"sample {int(np.argmin(finite))}{where} holds a number that is not finite in float32; remove it or repair it"
            )
        return array

    def _tokens(self, array: Array, where: str) -> Array:
        if array.dtype.kind not in "iu":
            raise InputError(f"the samples{where} are {array.dtype}, but whole numbers, of tokens, were expected")
        known = ((array >= 0) & (array < (self.vocabulary or 0))).all(axis=tuple(range(1, array.ndim)))
        if not known.all():
            raise InputError(
                f"sample {int(np.argmin(known))}{where} holds a token that is not from 0 to {(self.vocabulary or 0) - 1}; use the tokenizer "
                "that the network was trained with"
            )
        return np.ascontiguousarray(array, dtype=np.int64)

    def random(self, rng: np.random.Generator, samples: int, *, length: int | None = None) -> Array:
        """Random samples that ``checked`` takes: numbers from -1 to 1, or any tokens; open lengths have ``length``, by default at most 64."""
        long = max(self.shortest, min(self.longest, 64)) if length is None else length
        shape = (samples, *(long if size is None else size for size in self.shape))
        if self.what == "tokens":
            return rng.integers(0, self.vocabulary or 1, shape, dtype=np.int64)
        return rng.uniform(-1, 1, shape).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types, those that say something; ``from_json`` reads them back."""
        lengths = {"shortest": self.shortest, "longest": self.longest} if self.open else {}
        tokens = {} if self.vocabulary is None else {"vocabulary": self.vocabulary}
        return {"name": self.name, "what": self.what, "shape": list(self.shape), **lengths, **tokens}

    @classmethod
    def from_json(cls, value: object) -> Input:
        """Read ``to_json``'s mapping; ``SpecError`` if it is anything else."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, Mapping) or not {"name", "what", "shape"} <= set(value) <= names:
            raise SpecError(f"an input is described by name, what and shape, but {value!r:.100} came")
        if not isinstance(value["shape"], list):
            raise SpecError(f"an input's shape is {value['shape']!r:.100}, but a list was expected")
        return cls(**{**value, "shape": tuple(value["shape"])})


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
