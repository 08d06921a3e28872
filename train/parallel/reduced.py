"""What processes that train one network exchange: gradients, figures, statistics, and whether to stop.

Every process draws the same batch and takes every n-th sample of it. The loss is a mean over samples, so the gradient of the whole batch is
the mean of the processes' gradients, if BN uses the mean and variance of the whole batch as well (``batch_norm``) and dropout the draws of
the whole batch (``dropout``). So the result is that of one process, up to the rounding of sums.

Everything here does nothing in a run of one process.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from isoform.runtime.arrays import Array, digest_of
from isoform.runtime.errors import IsoformError, RecipeError, UsageError
from isoform.train.parallel.place import Place, place_of_environment

__all__ = ["alone", "any_of", "average", "batch_norm", "check_same", "dropout", "part", "together", "wait"]


def together(place: torch.device) -> Place:
    """Join the other processes of a run, if there are some, and return the place of this one. They stay together until the process ends.

    Args:
        place: Where to compute; on a GPU, the process takes the one of its number.

    Raises:
        UsageError: If the launcher's variables do not fit each other, or there are fewer GPUs than processes.
    """
    found = place_of_environment()
    if found.count > 1 and not dist.is_initialized():
        if place.type == "cuda":
            if found.local_count > torch.cuda.device_count():
                raise UsageError(
                    f"there are {found.local_count} processes on this machine, but {torch.cuda.device_count()} GPU(s); start as many, or choose --device cpu"
                )
            torch.cuda.set_device(found.local_rank)
        dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo")
        # Not after each run: a second group of the same processes would find the addresses of the first, which nobody answers any more.
        atexit.register(dist.destroy_process_group)
    return found


Samples = TypeVar("Samples", Tensor, Array)
_ALONE = contextvars.ContextVar("_ALONE", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Compute as a single process inside the block: every process does all of the work, and gets the same result."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def _count() -> int:
    return dist.get_world_size() if dist.is_initialized() and not _ALONE.get() else 1


def part(values: Samples) -> Samples:
    """Return this process's samples of a batch: every n-th row, so that shares are equal. Raises ``RecipeError`` if they cannot be."""
    count = _count()
    if len(values) % count:
        raise RecipeError(f"batch is {len(values)}, but {count} processes need a multiple of {count}")
    return values[dist.get_rank() :: count] if count > 1 else values


def average(gradients: Iterable[Tensor | None], figures: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """Replace gradients, in place, and figures by their means over all processes.

    Args:
        gradients: Of all parameters in the same order everywhere; None where a parameter was not used, by any process.
        figures: Of the losses of an update, with the same names everywhere.
    """
    count, told = _count(), list(figures)
    if count == 1:
        return told
    there = [gradient for gradient in gradients if gradient is not None]
    if there:
        flat = torch.cat([gradient.flatten() for gradient in there])
        dist.all_reduce(flat)
        for gradient, mean in zip(there, (flat / count).split([g.numel() for g in there]), strict=True):  # type: ignore[no-untyped-call]
            gradient.copy_(mean.view_as(gradient))
    numbers = torch.tensor([value for entry in told for value in entry.values()], dtype=torch.float64)
    dist.all_reduce(numbers)
    means = iter((numbers / count).tolist())
    return [{name: next(means) for name in entry} for entry in told]


def any_of(flag: bool) -> bool:
    """Return whether a flag is set in any process: all stop after the same step."""
    if _count() == 1:
        return flag
    found = torch.tensor([float(flag)])
    dist.all_reduce(found)
    return bool(found.item() > 0)


def wait() -> None:
    """Wait until all processes have come here."""
    if _count() > 1:
        any_of(False)


def check_same(state: Iterable[Tensor], *, because: str) -> None:
    """Check that all processes have the same tensors. Raises ``IsoformError`` if not, which says what has to be: ``because``."""
    if _count() == 1:
        return
    digest = digest_of(tensor.detach().cpu().numpy().tobytes() for tensor in state)
    found: list[Any] = [None] * _count()
    dist.all_gather_object(found, digest)
    if len({*found}) > 1:
        raise IsoformError(f"the processes of this run have different networks; {because}")


def batch_norm(
    z: Tensor, mean: Tensor, variance: Tensor, affine: Tensor, *, momentum: float | None, eps: float
) -> Tensor:
    """Normalise the channels of a batch that may be spread over processes.

    Args:
        z: Shape (n, c, h, w), of this process.
        mean: Running means, shape (c,); moved in place.
        variance: Running variances, shape (c,); moved in place.
        affine: γ and β, shape (2, c).
        momentum: Weight of this batch in the running statistics; None uses them unchanged.
        eps: Added to the variance.
    """
    gamma, beta = affine
    if momentum is None or _count() == 1:
        return F.batch_norm(
            z, mean, variance, gamma, beta, training=momentum is not None, momentum=momentum or 0.0, eps=eps
        )
    var, own = torch.var_mean(z.float(), (0, 2, 3), correction=0)
    # in float64, because the variance is a difference of squares; equal shares, so that the mean of means is that of all samples
    moments = torch.stack([own.double(), var.double() + own.double().square()])
    center, square = _Mean.apply(moments)  # type: ignore[no-untyped-call]
    spread = square - center.square()
    with torch.no_grad():
        whole = _count() * z.numel() // z.shape[1]
        mean.lerp_(center.to(mean.dtype), momentum)
        variance.lerp_((spread * whole / (whole - 1)).to(variance.dtype), momentum)
    # in float32 whatever z is: a mean in bfloat16 would be off by a hundredth of itself
    scale = gamma.float() * (spread + eps).rsqrt().float()
    shift = beta.float() - center.float() * scale
    return (z.float() * scale[:, None, None] + shift[:, None, None]).to(z.dtype)


def dropout(x: Tensor, share: float) -> Tensor:
    """Drop a share of the numbers of a batch, with the draws of the whole batch, whatever the number of processes.

    Args:
        x: Shape (n, …), of this process.
        share: Probability that a number is dropped, 0 to 1.
    """
    if _count() == 1 or not share:
        return F.dropout(x, share)
    return x * part(F.dropout(x.new_ones(_count() * len(x), *x.shape[1:]), share))


class _Mean(torch.autograd.Function):
    """The mean of a tensor over all processes; its gradient is the mean of the processes' gradients, as every loss depends on it."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total / _count()

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total / _count()
