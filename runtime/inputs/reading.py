"""How samples were read from files in training, for others to be read likewise; part of every bundle.

columns   which columns of a recording are the channels, in which order
stride    rows of a recording, or frames of a spectrogram, between the beginnings of two windows
sound     how a sound becomes a spectrogram
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from isoform.runtime.errors import SpecError
from isoform.runtime.inputs.checks import is_whole

__all__ = ["Reading", "Sound"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sound:
    """The log-mel spectrogram of a sound (``samples/sounds/spectrogram.py``). Raises ``SpecError`` on a value out of range."""

    rate: int = 16000
    """Samples per second, 1,000 to 192,000; recordings of another rate are resampled."""
    window: int = 400
    """Samples per frame, 16 to 16,384."""
    hop: int = 160
    """Samples between the beginnings of two frames, 1 to ``window``."""
    bands: int = 40
    """Number of mel bands, 2 to 256; the height of a sample."""
    low: float = 20.0
    """Lowest frequency in Hz."""
    high: float = 0.0
    """Highest frequency in Hz; 0 for half the rate."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name, low, high in (
            ("rate", 1000, 192_000),
            ("window", 16, 16_384),
            ("hop", 1, self.window),
            ("bands", 2, 256),
        ):
            if not is_whole(getattr(self, name), low, high):
                raise SpecError(
                    f"{name} of a sound is {getattr(self, name)!r:.100}, but a whole number from {low} to {high} was expected"
                )
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (self.low, self.high))
        # chained, so that NaN is out of range
        if not numbers or not 0 <= self.low < self.top <= self.rate / 2:
            raise SpecError(
                f"frequencies of a sound are {self.low!r:.50} to {self.high!r:.50} Hz, but numbers from 0 to half the rate, {self.rate / 2:g}, were expected"
            )

    @property
    def top(self) -> float:
        """Highest frequency in Hz."""
        return self.high or self.rate / 2

    def frames(self, samples: int) -> int:
        """Return the number of whole frames in a sound."""
        return max(0, 1 + (samples - self.window) // self.hop)

    def samples(self, frames: int) -> int:
        """Return the number of samples that some frames take; the inverse of ``frames``."""
        return (frames - 1) * self.hop + self.window

    @classmethod
    def from_json(cls, value: object) -> Sound:
        """Read the fields as JSON types. Raises ``SpecError`` if they are malformed."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, Mapping) or not set(value) <= names:
            raise SpecError(f"a sound is {value!r:.100}, but an object with {', '.join(sorted(names))} was expected")
        return cls(**value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How samples were read. Raises ``SpecError`` on a value of the wrong type."""

    columns: tuple[str, ...] | None = None
    """Names of a recording's channels, in their order; None if no recordings were read."""
    stride: int | None = None
    """Rows, or frames, between the beginnings of two windows; None for windows that follow each other."""
    sound: Sound | None = None
    """How sounds become spectrograms; None if the samples are no sounds."""

    def __post_init__(self) -> None:
        """Check every field."""
        names = self.columns
        if names is not None and not (
            names and len(set(names)) == len(names) and all(isinstance(name, str) for name in names)
        ):
            raise SpecError(f"the columns of recordings are {list(names)!r:.100}, but different names were expected")
        if self.stride is not None and not is_whole(self.stride, 1, 1 << 20):
            raise SpecError(f"the stride of windows is {self.stride!r:.100}, but a whole number from 1 was expected")

    def to_json(self) -> dict[str, Any]:
        """Return the fields that say something, as JSON types; ``from_json`` is the inverse."""
        found: dict[str, Any] = {}
        if self.columns is not None:
            found["columns"] = list(self.columns)
        if self.stride is not None:
            found["stride"] = self.stride
        if self.sound is not None:
            found["sound"] = dataclasses.asdict(self.sound)
        return found

    @classmethod
    def from_json(cls, value: object) -> Reading:
        """Read what ``to_json`` returned. Raises ``SpecError`` if it is malformed."""
        names = ("columns", "stride", "sound")
        if (
            not isinstance(value, Mapping)
            or not set(value) <= set(names)
            or not isinstance(value.get("columns", []), list)
        ):
            raise SpecError(
                f"how samples are read is {value!r:.100}, but an object with {', '.join(names)} was expected"
            )
        return cls(
            columns=tuple(value["columns"]) if "columns" in value else None, stride=value.get("stride"),
            sound=Sound.from_json(value["sound"]) if "sound" in value else None,
        )  # fmt: skip
