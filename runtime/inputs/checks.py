"""Checks of numbers in descriptions that come from files."""

from __future__ import annotations

import math
from collections.abc import Sequence

from isoform.runtime.errors import SpecError

__all__ = ["check_scaling", "is_whole"]


def check_scaling(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Check the mean and deviation by which a network normalises its samples, one per channel. Raises ``SpecError``."""
    for name, value in (("mean", mean), ("std", std)):
        if len(value) != channels or not all(math.isfinite(v) for v in value):
            raise SpecError(
                f"{name} is {list(value)}, but one finite number per input channel ({channels}) was expected"
            )
    if min(std) <= 0:
        raise SpecError(f"std is {list(std)}, but every entry must be above 0")


def is_whole(value: object, low: int, high: int) -> bool:
    """Return whether a value of a JSON file is a whole number in a range, both ends included."""
    # bool is a subclass of int: without this, JSON's true would be a size of 1
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
