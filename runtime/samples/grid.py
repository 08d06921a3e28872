"""Whether a network's samples can be read from images or recordings, which needs a fixed size, or from arrays only."""

from __future__ import annotations

from pathlib import Path

from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Input

__all__ = ["grid_of"]


def grid_of(takes: Input, path: Path) -> tuple[int, int, int]:
    """Return channels, height and width of a sample in files; windows of recordings have height 1.

    Args:
        takes: The network's input.
        path: The path to read from, for messages.

    Raises:
        InputError: If the input is neither images nor windows, or its size is not fixed.
    """
    sizes = [size for size in takes.shape if size is not None]
    if takes.what == "image" and len(sizes) == 3:
        return sizes[0], sizes[1], sizes[2]
    if takes.what == "window" and len(sizes) == 2:
        return sizes[0], 1, sizes[1]  # as an image of one row, so that the same code reads both
    raise InputError(
        f"{path}: the network's input is {takes.plural} of shape {takes}, which are read from .npz files; write one with numpy.savez(path, x=...)"
    )
