"""Augmentation: random changes of every sample of a batch, in torch, as functions of (seed, task, step).

    images        flip, turn, zoom, colour, cutout      one affine map and one interpolation for flip, turn and zoom; edges are repeated
    windows       gain, warp                            a factor per channel; time that runs faster here and slower there
    spectrograms  mask_time, mask_bands                 SpecAugment, without its time warp
    all           noise, mixup

Strengths are those of the recipe's table ``[data.augment]``; those that are 0 draw nothing. Lengths are shares of a sample's sides. What is cut
out or masked becomes the sample's mean.
Source: DeVries and Taylor 2017 (cutout), Zhang et al. 2018 (mixup), Park et al. 2019 (SpecAugment).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from isoform.train.data.recipe import AugmentTable

__all__ = ["augmented", "hits"]


def augmented(
    x: Tensor, y: Tensor, table: AugmentTable, *, classes: int, draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Change a batch.

    Args:
        x: Samples, shape (n, channels, height, width), float32.
        y: Labels, shape (n,), int64.
        table: Strengths.
        classes: Number of classes.
        draws: Source of the random numbers.

    Returns:
        The same shape; and labels, with mixup probabilities of shape (n, classes), float32.
    """
    if table.flip or table.turn or table.zoom:
        x = _mapped(x, table, draws)
    if table.warp:
        x = _warped(x, table.warp, draws)
    if table.colour:
        x = _coloured(x, table.colour, draws)
    if table.gain:
        x = _gained(x, table.gain, draws)
    if table.noise:
        x = _noisy(x, table.noise, draws)
    if table.cutout:
        x = _cut(x, table.cutout, draws)
    if table.mask_time:
        x = _masked(x, table.mask_time, 3, draws)
    if table.mask_bands:
        x = _masked(x, table.mask_bands, 2, draws)
    return _mixed(x, y, table.mixup, classes, draws) if table.mixup else (x, y)


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """Return whether each sample's largest logit is that of its label, or of its most probable one; shape (n,), bool."""
    return logits.detach().argmax(1) == (y if y.ndim == 1 else y.argmax(1))


def _uniform(x: Tensor, draws: torch.Generator, *shape: int) -> Tensor:
    """Draw numbers from -1 to 1 for every sample, shape (n, …)."""
    return 2 * torch.rand((len(x), *shape), generator=draws) - 1


def _mapped(x: Tensor, table: AugmentTable, draws: torch.Generator) -> Tensor:
    """Mirror, turn, and look at a part of an image, all at once."""
    height, width = x.shape[2:]
    mirrored = torch.where(torch.rand(len(x), generator=draws) < table.flip, -1.0, 1.0)
    angle = math.radians(table.turn) * _uniform(x, draws)
    side = 1 - table.zoom * torch.rand(len(x), generator=draws)
    # the part may lie anywhere inside the image
    across, down = _uniform(x, draws) * (1 - side), _uniform(x, draws) * (1 - side)
    cos, sin, ratio = side * torch.cos(angle), side * torch.sin(angle), height / width
    rows = [cos * mirrored, -sin * ratio, across, sin / ratio * mirrored, cos, down]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _warped(x: Tensor, warp: float, draws: torch.Generator) -> Tensor:
    """Let time run at another speed in each of four parts of a window, with the same beginning and end."""
    width = x.shape[3]
    speeds = F.interpolate(1 + warp * _uniform(x, draws, 1, 4), size=width, mode="linear", align_corners=True)[:, 0]
    passed = speeds.cumsum(1)
    passed = (passed - passed[:, :1]) / (passed[:, -1:] - passed[:, :1])
    columns = (2 * passed - 1)[:, None, :].expand(-1, x.shape[2], -1)
    rows = (
        torch.linspace(-1, 1, x.shape[2])[None, :, None].expand_as(columns)
        if x.shape[2] > 1
        else torch.zeros_like(columns)
    )
    return F.grid_sample(x, torch.stack([columns, rows], dim=-1), padding_mode="border", align_corners=True)


def _coloured(x: Tensor, colour: float, draws: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation, each by a factor between 1 - ``colour`` and 1 + ``colour``; stays within 0 to 1."""
    brightness, contrast, saturation = (1 + colour * _uniform(x, draws, 3)).unbind(1)
    wide = (slice(None), None, None, None)
    x = x * brightness[wide]
    x = x.mean((1, 2, 3), keepdim=True).lerp(x, contrast[wide])
    return x.mean(1, keepdim=True).lerp(x, saturation[wide]).clamp(0, 1)


def _gained(x: Tensor, gain: float, draws: torch.Generator) -> Tensor:
    """Multiply every channel by a factor whose logarithm is normal with deviation ``gain``."""
    return x * torch.exp(gain * torch.randn((*x.shape[:2], 1, 1), generator=draws))


def _noisy(x: Tensor, noise: float, draws: torch.Generator) -> Tensor:
    """Add normal noise, ``noise`` in units of each channel's deviation within the sample."""
    return x + noise * x.std((2, 3), correction=0, keepdim=True) * torch.randn(x.shape, generator=draws)


def _cut(x: Tensor, cutout: float, draws: torch.Generator) -> Tensor:
    """Cut out a rectangle of ``cutout`` of both sides, which may be partly outside."""
    return _replaced(x, _span(x, 2, cutout, draws) & _span(x, 3, cutout, draws))


def _masked(x: Tensor, most: float, axis: int, draws: torch.Generator) -> Tensor:
    """Mask a stretch of up to ``most`` of an axis: 3 is time, 2 the bands."""
    return _replaced(x, _span(x, axis, most * torch.rand(len(x), generator=draws), draws))


def _span(x: Tensor, axis: int, share: float | Tensor, draws: torch.Generator) -> Tensor:
    """Choose a stretch of an axis for every sample, with its middle anywhere; bool, of length 1 along the other axes."""
    length = x.shape[axis]
    places = (torch.arange(length) + 0.5) / length
    middle = torch.rand(len(x), generator=draws)
    half = torch.as_tensor(share).expand(len(x)) / 2
    shape = [len(x), 1, 1, 1]
    shape[axis] = length
    return ((places - middle[:, None]).abs() < half[:, None]).view(shape)


def _replaced(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x.mean((1, 2, 3), keepdim=True), x)


def _mixed(x: Tensor, y: Tensor, mixup: float, classes: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix every sample with another of the batch, and their labels alike; one share for the batch, of Beta(``mixup``, ``mixup``)."""
    # by numpy, because torch's Beta takes no generator
    seed = int(torch.randint(2**31, (1,), generator=draws))
    share = float(np.random.default_rng(seed).beta(mixup, mixup))
    other = torch.randperm(len(x), generator=draws)
    one_hot = F.one_hot(y, classes).float()
    return x[other].lerp(x, share), one_hot[other].lerp(one_hot, share)
