"""What can be set about a server, checked, in one place."""

from __future__ import annotations

import dataclasses
from typing import Literal

from isoform.runtime.errors import UsageError

__all__ = ["Settings"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server behaves.

    Raises:
        UsageError: If a value is out of its range.
    """

    max_body_bytes: int = 16 << 20
    """Longest request body that is read, compressed or not; a longer one gets 413."""
    unknown: Literal["refuse", "base"] = "refuse"
    """What a user who has no signature gets: 404, or the task's base signature, named as such in the answer."""
    page: int = 100
    """Entries of a list where the request does not say, from 1 to 1,000."""
    decoded_bytes: int = 64 << 20
    """How many bytes of users' signature files may stay decoded in memory."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.max_body_bytes < 1:
            raise UsageError(f"max_body_bytes is {self.max_body_bytes}, but 1 or more was expected")
        if self.unknown not in ("refuse", "base"):
            raise UsageError(f"unknown is {self.unknown!r}, but 'refuse' or 'base' was expected")
        if not 1 <= self.page <= 1000:
            raise UsageError(f"page is {self.page}, but 1 to 1000 was expected")
        if self.decoded_bytes < 0:
            raise UsageError(f"decoded_bytes is {self.decoded_bytes}, but 0 or more was expected")
