"""Networks that nobody made for us, as torch's own exporter writes them: their plans beside sessions with constant weights.

lenet      LeNet-5 on 28×28 images (LeCun et al. 1998)
wrn        one block of a wide residual network, 32 channels of 32×32 (Zagoruyko and Komodakis 2016); BN folded, as a kind would
lstm       token embeddings, one LSTM of 128, and the embeddings again as the output layer (tied; Press and Wolf 2017)
deepbind   one convolution over one-hot DNA of 101 letters, maximum, two layers (Alipanahi et al. 2015)
matrix     one product with a matrix of 1024 × 1024, which ONNX Runtime packs if it is constant
"""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from bench.swapping.as_torch import Gate
from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.plans.plan import Subject
from isoform.runtime.formats.compiled import WEIGHTS_LOCATION

__all__ = ["GRAPHS", "Graph", "exported", "randomised", "subject"]

TOKENS, LETTERS = 500, 101


@dataclasses.dataclass(frozen=True)
class Graph:
    """A network, and random inputs for it."""

    make: Callable[[], nn.Module]
    feed: Callable[[np.random.Generator, int], Array]


class Block(nn.Module):
    """A residual block whose BN is folded into its convolutions, behind a first layer and before a last one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = (nn.Conv2d(c, 32, 3, padding=1) for c in (3, 32, 32))
        self.last = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 3, 32, 32)."""
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        return self.last(x.mean((2, 3)))


class Tied(nn.Module):
    """A language model of one layer whose last layer is its first."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.lstm = nn.Embedding(TOKENS, 128), nn.LSTM(128, 128, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, tokens) of what follows, of tokens (n, length)."""
        states, _ = self.lstm(self.tokens(x))
        return states[:, -1] @ self.tokens.weight.T


class Gated(nn.Module):
    """Two MobileNetV3 blocks with squeeze-and-excite, of channel counts that are no multiple of 8, and BN that the exporter folds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardswish())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, channels, 1), nn.BatchNorm2d(channels), nn.Hardswish(),
                nn.Conv2d(channels, channels, 5, 1, 2, groups=channels), nn.BatchNorm2d(channels), nn.Hardswish(),
                Gate(channels, channels // 4), nn.Conv2d(channels, 16, 1), nn.BatchNorm2d(16),
            )
            for channels in (64, 44)
        )  # fmt: skip
        self.last = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 3, 32, 32)."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x.mean((2, 3)))


def _lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip


def _deepbind() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 16, 24), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2)
    )  # fmt: skip


def _uniform(*shape: int) -> Callable[[np.random.Generator, int], Array]:
    return lambda rng, samples: rng.uniform(-1, 1, (samples, *shape)).astype(np.float32)


GRAPHS = {
    "lenet": Graph(_lenet, _uniform(1, 28, 28)),
    "wrn": Graph(Block, _uniform(3, 32, 32)),
    "gated": Graph(Gated, _uniform(3, 32, 32)),
    "lstm": Graph(Tied, lambda rng, samples: rng.integers(0, TOKENS, (samples, 12))),
    "deepbind": Graph(_deepbind, lambda rng, samples: np.eye(4, dtype=np.float32)[rng.integers(0, 4, (samples, LETTERS))].transpose(0, 2, 1).copy()),
    "matrix": Graph(lambda: nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)), _uniform(1024)),
}  # fmt: skip


def exported(name: str, *, seed: int = 0) -> onnx.ModelProto:
    """A graph as ``torch.onnx.export`` writes it, with random weights."""
    torch.manual_seed(seed)
    graph, file = GRAPHS[name], io.BytesIO()
    x = torch.from_numpy(graph.feed(np.random.default_rng(seed), 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            graph.make().eval(), (x,), file, input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
            opset_version=17, dynamo=False,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def subject(
    name: str, model: onnx.ModelProto, *, constants: Callable[[str], bool] = lambda _: False
) -> tuple[Subject, Mapping[str, Array]]:
    """What a plan is made of, and the model's own weights.

    Args:
        name: Of ``GRAPHS``.
        model: What ``exported`` gave. Not changed.
        constants: Which weights stay as they are, by name.
    """
    model, values, start = onnx.ModelProto.FromString(model.SerializeToString()), dict[str, Array](), 0
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or not tensor.dims:
            continue
        values[tensor.name] = array = numpy_helper.to_array(tensor).copy()
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS_LOCATION), ("offset", start), ("length", array.nbytes)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        start += array.nbytes
    return Subject(
        graph=model.SerializeToString(), weights={name: array.shape for name, array in values.items()},
        constants={name: array for name, array in values.items() if constants(name)},
        feeds=lambda rng, samples: {"x": GRAPHS[name].feed(rng, samples)}, output="y",
    ), values  # fmt: skip


def randomised(values: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """Other weights of the same shapes."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=array.shape) / math.sqrt(max(1, math.prod(array.shape[1:])))).astype(np.float32)
        for name, array in values.items()
    }
