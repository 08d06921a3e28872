"""What every task uses of a network, at up to ``RECORDS`` times of a run: for figures, kept in ``bundle.json``.

A buffer of the network holds it, so that it is in every checkpoint: whole numbers 0 to 255 for usage 0 to 1, shape (RECORDS, T, L, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["RECORDS", "empty_record", "is_due", "keep_usage", "record_of"]

RECORDS = 50
"""Number of times at which usage is recorded during a run, besides its end."""


def empty_record(tasks: int, layers: int, components: int) -> Tensor:
    """Return a buffer for a run that has not begun, shape (RECORDS, T, L, C), uint8."""
    return torch.zeros((RECORDS, tasks, layers, components), dtype=torch.uint8)


def is_due(step: int, steps: int) -> bool:
    """Whether usage is recorded before a step: the first step at or after each of the times, which are evenly spaced."""
    return not step or (step - 1) * RECORDS // steps < step * RECORDS // steps


@torch.no_grad()
def keep_usage(record: Tensor, usage: Tensor, *, step: int, steps: int) -> None:
    """Write usage, shape (T, L, C), 0 to 1, to its place."""
    record[step * RECORDS // steps] = _bytes(usage)


@torch.no_grad()
def record_of(record: Tensor, usage: Tensor, *, steps: int, tasks: Sequence[str]) -> dict[str, Any]:
    """Return usage over time as JSON types.

    Args:
        record: The buffer of a run that is complete.
        usage: Usage at its end, shape (T, L, C), 0 to 1.
        steps: Number of steps.
        tasks: Names of the tasks.

    Returns:
        ``steps``, and in ``probabilities`` for each task and time two hex digits (0 to 255) for every place, row by row.
    """
    due = [step for step in range(steps) if is_due(step, steps)]
    times = [*record[[step * RECORDS // steps for step in due]].cpu(), _bytes(usage).cpu()]
    names = {name: [time[task].numpy().tobytes().hex() for time in times] for task, name in enumerate(tasks)}
    return {"steps": [*due, steps], "probabilities": names}


def _bytes(usage: Tensor) -> Tensor:
    return (255 * usage.clamp(0, 1)).round().to(torch.uint8)
