"""Which of the processes of a run this one is. Without torch, because ``isoform train`` asks before it imports torch."""

from __future__ import annotations

import dataclasses
import os

from isoform.runtime.errors import UsageError

__all__ = ["Place", "place_of_environment"]

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that ``torchrun``, and every other launcher of torch's processes, sets."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """The place of a process among those that train one network."""

    rank: int = 0
    """Its number, from 0."""
    count: int = 1
    """Number of all processes, on all machines."""
    local_rank: int = 0
    """Its number among those of this machine, which is also that of its GPU."""
    local_count: int = 1
    """Number of processes on this machine."""

    @property
    def first(self) -> bool:
        """Whether it is the one that prints, and writes the checkpoint and the bundle."""
        return self.rank == 0


def place_of_environment() -> Place:
    """Return the place that the environment says; the only one of one process without a launcher.

    Raises:
        UsageError: If the variables are not numbers that fit each other.
    """
    if not all(os.environ.get(name) for name in VARIABLES):
        return Place()
    # a launcher of one process per machine sets only the first two
    names = {
        "rank": ("RANK", ""),
        "count": ("WORLD_SIZE", ""),
        "local_rank": ("LOCAL_RANK", "0"),
        "local_count": ("LOCAL_WORLD_SIZE", "1"),
    }
    texts = {field: os.environ.get(name) or usual for field, (name, usual) in names.items()}
    if not all(text.isdigit() for text in texts.values()):
        told = ", ".join(f"{names[field][0]}={text}" for field, text in texts.items())
        raise UsageError(f"the environment has {told}, but numbers were expected; start the processes with torchrun")
    found = Place(**{field: int(text) for field, text in texts.items()})
    if not (0 <= found.rank < found.count and 0 <= found.local_rank < found.local_count <= found.count):
        raise UsageError(
            f"the environment says that this is process {found.rank} of {found.count}, and {found.local_rank} of {found.local_count} on this "
            "machine, which cannot be; start the processes with torchrun"
        )
    return found
