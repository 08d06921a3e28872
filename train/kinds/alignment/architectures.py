"""The networks of MUIR's experiments (section 4.2): a small vision network, a wide residual one, a language model and one for DNA.

``aligned`` names the weights that hypermodules generate. The first convolution, embeddings, BN, biases and the logits layer are each task's
own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit import is_tracing  # type: ignore[attr-defined]

from isoform.runtime.errors import SpecError

__all__ = ["DeepBind", "LanguageModel", "LeNet", "WideResNet"]

State = tuple[Tensor, Tensor]


class Images(nn.Module):
    """A network of images, which normalises them first.

    Args:
        mean: Subtracted per channel, in the unit of the samples.
        std: Divided by, per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor([*mean])[:, None, None])
        self.std: Tensor
        self.register_buffer("std", torch.tensor([*std])[:, None, None])

    def normalised(self, x: Tensor) -> Tensor:
        """Return images (n, channels, height, width) with mean 0 and deviation 1 per channel."""
        return (x - self.mean) / self.std


class LeNet(Images):
    """Two convolutions and three dense layers; on images of 32×32 pixels the paper's.

    Args:
        classes: Number of classes.
        size: Height and width of the images, 10 or more.
        mean: Of the images, per channel.
        std: Of the images, per channel.
    """

    aligned = ("conv2.weight", "fc1.weight", "fc2.weight")

    def __init__(
        self, classes: int = 10, *, size: tuple[int, int] = (32, 32), mean: Sequence[float] = (0, 0, 0), std: Sequence[float] = (1, 1, 1)
    ) -> None:  # fmt: skip
        super().__init__(mean, std)
        height, width = (((side - 2) // 2 - 2) // 2 for side in size)
        if min(height, width) < 1:
            raise SpecError(
                f"images of {size[0]}×{size[1]} pixels are too small for LeNet, which needs 10 or more each way"
            )
        self.conv1, self.conv2 = nn.Conv2d(len(mean), 16, 5, padding=1), nn.Conv2d(16, 16, 5, padding=1)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * height * width, 128), nn.Linear(128, 96), nn.Linear(96, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, *size) → logits (n, classes)."""
        x = self.normalised(x)
        for convolution in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        return cast(Tensor, self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))))


class Residual(nn.Module):
    """A block of a wide residual network: twice BN, ReLU and a 3×3 convolution; the shortcut is another where the size changes."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(into), nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(out), nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = None if into == out else nn.Conv2d(into, out, 3, stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (n, into, h, w) → (n, out, h / stride, w / stride)."""
        inner = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(inner)
        return cast(Tensor, kept + self.conv2(F.relu(self.bn2(self.conv1(inner)))))


class WideResNet(Images):
    """WRN-40-1 (Zagoruyko and Komodakis 2016): 3 × 6 residual blocks of 16, 32 and 64 channels.

    Args:
        classes: Number of classes.
        depth: Number of layers, 6 n + 4.
        mean: Of the images, per channel.
        std: Of the images, per channel.
    """

    def __init__(
        self, classes: int = 10, *, depth: int = 40, mean: Sequence[float] = (0, 0, 0), std: Sequence[float] = (1, 1, 1)
    ) -> None:  # fmt: skip
        super().__init__(mean, std)
        each = (depth - 4) // 6
        if depth != 6 * each + 4 or not each:
            raise SpecError(f"a wide residual network has 10, 16, 22, … layers, not {depth}")
        self.conv = nn.Conv2d(len(mean), 16, 3, padding=1, bias=False)
        widths = [16, *(width for width in (16, 32, 64) for _ in range(each))]
        self.blocks = nn.ModuleList(
            Residual(into, out, 2 if out > into else 1) for into, out in itertools.pairwise(widths)
        )
        self.bn, self.fc = nn.BatchNorm2d(64), nn.Linear(64, classes)

    @property
    def aligned(self) -> tuple[str, ...]:
        """Every 3×3 convolution of the blocks, shortcuts included."""
        return tuple(f"blocks.{name}" for name, value in self.blocks.named_parameters() if value.dim() == 4)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, height, width) → logits (n, classes)."""
        x = self.conv(self.normalised(x))
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.fc(F.relu(self.bn(x)).mean((2, 3))))


class LanguageModel(nn.Module):
    """Two LSTM layers between embeddings and the same embeddings as logits layer (Zaremba et al. 2014; Press and Wolf 2017).

    Args:
        vocabulary: Number of tokens.
        width: Of embeddings and states.
        dropout: After embeddings, between layers, and before the logits.
    """

    aligned = tuple(f"lstm.weight_{what}_l{layer}" for layer in (0, 1) for what in ("ih", "hh"))

    def __init__(self, vocabulary: int, *, width: int = 256, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout, self.embedding = nn.Dropout(dropout), nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, 2, dropout=dropout, batch_first=True)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, x: Tensor, *, every: bool = False, state: State | None = None) -> Tensor | tuple[Tensor, State]:
        """Compute logits of what follows.

        Args:
            x: Tokens, shape (n, length), int64.
            every: Whether to return what follows every token, and the state after the last.
            state: The state before the first token; None for zeros.

        Returns:
            Shape (n, vocabulary); with ``every`` (n, length, vocabulary), and the state.
        """
        outputs, after = self.lstm(self.dropout(self.embedding(x)), state)
        outputs = self.dropout(outputs if every else outputs[:, -1])
        logits = F.linear(outputs, self.embedding.weight, self.bias)
        return (logits, cast(State, after)) if every else logits


class DeepBind(nn.Module):
    """One convolution over DNA and two dense layers (Alipanahi et al. 2015; Zeng et al. 2016).

    Args:
        outputs: Number of classes, or 1 for a measured value.
        width: Of embeddings, convolution and dense layer.
        kernel: Letters that the convolution spans.
    """

    aligned = ("conv.weight", "fc1.weight")

    def __init__(self, outputs: int = 1, *, width: int = 256, kernel: int = 24) -> None:
        super().__init__()
        self.embedding, self.conv = nn.Embedding(5, width), nn.Conv1d(width, width, kernel)
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Letters A, C, G, T, N as 0 to 4, (n, length), int64 → (n, outputs)."""
        if is_tracing():  # type: ignore[no-untyped-call]
            x = self.conv(self.embedding(x).transpose(1, 2))
        else:
            # Five letters instead of ``width`` features: the convolution of their embeddings is one of the letters themselves, whose
            # kernel is a product. A step of 128 sequences takes a twentieth.
            letters = F.one_hot(x, 5).transpose(1, 2).to(self.conv.weight.dtype)
            kernel = torch.einsum("oik,li->olk", self.conv.weight, self.embedding.weight)
            x = F.conv1d(letters, kernel, self.conv.bias)
        return cast(Tensor, self.fc2(F.relu(self.fc1(F.relu(x).amax(2)))))
