"""The best state of a run so far, kept beside the network: as buffers, so that it is in every checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["Best"]


class Best(nn.Module):
    """Keeps the values of some tensors.

    Args:
        tensors: Parameters and buffers, of floats or whole numbers; always the same ones, in the same order.

    Attributes:
        score: The best score so far, shape (); the larger, the better.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        # before training, because a checkpoint is read into buffers of the same shape
        sizes = {True: 0, False: 0}
        for tensor in tensors:
            sizes[tensor.is_floating_point()] += tensor.numel()
        self.floats: Tensor
        self.register_buffer("floats", torch.zeros(sizes[True]))
        self.integers: Tensor
        self.register_buffer("integers", torch.zeros(sizes[False], dtype=torch.int64))
        self.score: Tensor
        self.register_buffer("score", torch.full((), -torch.inf))

    @property
    def any(self) -> bool:
        """Whether a state was kept."""
        return bool(self.score > -torch.inf)

    @torch.no_grad()
    def keep(self, tensors: Iterable[Tensor], score: float) -> None:
        """Keep the tensors' values if this score is the best so far."""
        if not score > self.score:
            return
        for place, values in self._places([*tensors]):
            place.copy_(values.reshape(-1))
        self.score.fill_(score)

    @torch.no_grad()
    def restore(self, tensors: Iterable[Tensor]) -> None:
        """Give the tensors the kept values; does nothing if no state was kept."""
        if self.any:
            for place, values in self._places([*tensors]):
                values.copy_(place.reshape(values.shape))

    def _places(self, tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return each tensor with its part of the buffers."""
        found, starts = [], {True: 0, False: 0}
        for tensor in tensors:
            start, floats = starts[tensor.is_floating_point()], tensor.is_floating_point()
            starts[floats] = start + tensor.numel()
            found.append(((self.floats if floats else self.integers)[start : starts[floats]], tensor))
        return found
