"""What ``wrap`` refuses: a module that would not be exported as what it is, one line that names the layer and the way out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isoform.runtime.errors import InputError, SpecError
from isoform.runtime.inputs import Input, What

__all__ = ["checked_module", "input_from"]

KINDS: dict[int, What] = {2: "vector", 3: "window", 4: "image"}
"""Number of axes of samples (n, …), float → type of sample."""


def checked_module(module: nn.Module) -> None:
    """Check that a module can be wrapped.

    Raises:
        SpecError: If a layer is in training mode, BN keeps no statistics, or a parameter is on another device, of another type, lazy, or a view of another.
    """
    for name, part in module.named_modules():
        if part.training:
            raise SpecError(f"layer {name or type(module).__name__!r} is in training mode; call module.eval() first")
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and not part.track_running_stats:
            raise SpecError(
                f"BN {name!r} keeps no statistics, so an answer would depend on the other samples; make it with track_running_stats=True"
            )
    owners: dict[int, tuple[str, Tensor]] = {}
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(value):
            raise SpecError(f"{name} has no shape yet; call the module once on samples first")
        if value.device.type != "cpu":
            raise SpecError(f"{name} is on {value.device}, but the processor was expected; call module.cpu() first")
        if not value.is_floating_point():
            continue
        if value.dtype != torch.float32:
            raise SpecError(
                f"{name} is {str(value.dtype).removeprefix('torch.')}, but float32 was expected; call module.float() first"
            )
        if not value.isfinite().all() and name in dict(module.named_parameters()):
            raise SpecError(f"{name} holds a number that is not finite; train again")
        if value.numel() and isinstance(value, nn.Parameter):
            other = owners.setdefault(value.untyped_storage().data_ptr(), (name, value))
            if other[1] is not value:
                raise SpecError(
                    f"{name} and {other[0]} are views of the same memory, so a change of one would change the other; use one parameter for both, or clone"
                )


def input_from(
    example: object, *, name: str | None, vocabulary: int | None, lengths: tuple[int, int] | None, module: nn.Module
) -> Input:
    """Describe the samples of which an example was given.

    Args:
        example: A tensor of samples, shape (n, …), n ≥ 1.
        name: Name of the input; None for that of its type: image, window, vector, tokens.
        vocabulary: Number of different tokens; None for that of the module's first embedding.
        lengths: Shortest and longest length of the last axis if it is open; None if it is fixed.
        module: The module that takes them.

    Raises:
        InputError: If it is not a tensor of float32 or int64 of two to four axes.
        SpecError: If a size is out of range.
    """
    if not isinstance(example, Tensor):
        raise InputError(f"the example is a {type(example).__name__}, but a tensor of samples (n, …) was expected")
    if example.dtype == torch.int64 and example.dim() == 2:
        what: What = "tokens"
    elif example.dtype == torch.float32 and example.dim() in KINDS:
        what = KINDS[example.dim()]
    else:
        raise InputError(
            f"the example is {str(example.dtype).removeprefix('torch.')} of shape {tuple(example.shape)}, but float32 (n, features), (n, channels, steps) "
            "or (n, channels, height, width), or int64 (n, tokens) were expected"
        )
    if not len(example):
        raise InputError("the example has no samples, but one or more were expected")
    embeddings = [part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)]
    if what != "tokens":
        vocabulary = None
    elif vocabulary is None:
        if not embeddings:
            raise InputError("the example holds tokens, but the module has no nn.Embedding; pass vocabulary=")
        vocabulary = embeddings[0]
    shape: list[int | None] = [*example.shape[1:]]
    shortest, longest = lengths or (1, 4096)
    if lengths:
        shape[-1] = None
    return Input(
        what=what, shape=tuple(shape), name=name or what, shortest=shortest, longest=longest, vocabulary=vocabulary
    )
