"""Where a run computes, and in which precision.

The result of a run on a GPU is not that of the processor to the last bit, nor that of another run: kernels add in another order. All else is
the same: weights at the start, batches, order, and the checks of a compiled bundle.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError

__all__ = ["autocast", "device_named", "exact", "tensor_of", "told_of"]


def device_named(name: str) -> torch.device:
    """Return a device; ``auto`` is the GPU if there is one. Raises ``UsageError`` if there is none of that name."""
    there = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if there else "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and not there):
        found = "cpu, cuda or auto" if there else "cpu or auto, because torch finds no GPU here,"
        raise UsageError(f"the device is {name!r}, but {found} was expected")
    return torch.device(name)


def exact(place: torch.device) -> None:
    """Make torch compute the same each time on the processor, and in full float32 on a GPU."""
    # Without it a nondeterministic kernel adds floats in another order, and a resumed run ends in other bytes. On a GPU some kernels have no
    # deterministic counterpart. use_deterministic_algorithms would import torch._inductor.
    torch.set_deterministic_debug_mode("error" if place.type == "cpu" else "default")
    # TF32 has 10 bits of mantissa; bf16 is what a recipe asks for who wants fewer.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def autocast(samples: Mapping[int, tuple[Tensor, Tensor]], precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context for the losses of some samples: with ``bf16``, matrix products and convolutions are of bfloat16, sums of float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(next(iter(samples.values()))[0].device.type, dtype=torch.bfloat16)


def tensor_of(x: Array) -> Tensor:
    """Return an array as a tensor, a copy of it if it may not be written, as that of a file that is mapped into memory: torch has no such tensors."""
    return torch.from_numpy(x if x.flags.writeable else x.copy())


def told_of(place: torch.device) -> dict[str, str]:
    """Return what a bundle says of the device: nothing of a processor."""
    return {} if place.type == "cpu" else {"device": torch.cuda.get_device_name(place)}
