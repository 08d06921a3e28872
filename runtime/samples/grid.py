"""Which files a network's samples can be read from: those whose samples lie on a grid of fixed size, or arrays alone."""

from __future__ import annotations

from pathlib import Path

from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Input

__all__ = ["grid_of"]


def grid_of(takes: Input, path: Path) -> tuple[int, int, int]:
    """Channels, height and width of a sample in files: images as they are, windows of recordings with height 1.

    Args:
        takes: What the network takes.
        path: Where samples are wanted from, for messages.

    Raises:
        InputError: If samples of that kind, or of any length, are in no images or recordings.
    """
    sizes = [size for size in takes.shape if size is not None]
    if takes.what == "image" and len(sizes) == 3:
        return sizes[0], sizes[1], sizes[2]
    if takes.what == "window" and len(sizes) == 2:
        return sizes[0], 1, sizes[1]
    raise InputError(
        f"{path}: the network takes {takes.plural} of shape {takes}, which are read from .npz files; write one with numpy.savez(path, x=...)"
    )
