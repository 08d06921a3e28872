"""Modules that somebody else might bring, small enough for tests."""

import torch
from torch import nn


class Residual(nn.Module):
    """Convolutions with BN, one of them depthwise, and a sum."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8, eps=1e-3)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv4 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.unused = nn.Linear(3, 3)
        self.fc = nn.Linear(8, classes)

    def forward(self, x):  # noqa: D102
        x = torch.relu(self.bn1(self.conv1(x)))
        x = x + self.bn2(self.conv2(x))
        return self.fc((torch.relu(self.bn3(self.conv3(x))) + self.conv4(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """Three LSTM layers over windows (n, channels, steps)."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(6, 16, 3, batch_first=True), nn.Linear(16, classes)

    def forward(self, x):  # noqa: D102
        return self.fc(self.lstm(x.transpose(1, 2))[0][:, -1])


class Gated(nn.Module):
    """A convolution with BN over steps, and a GRU without a bias in its last layer."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.bn, self.gru = (
            nn.Conv1d(6, 8, 3),
            nn.BatchNorm1d(8),
            nn.GRU(8, 16, batch_first=True),
        )
        self.fc = nn.Linear(16, classes, bias=False)

    def forward(self, x):  # noqa: D102
        return self.fc(self.gru(torch.relu(self.bn(self.conv(x))).transpose(1, 2))[0][:, -1])


class Attention(nn.Module):
    """A small transformer encoder over tokens; its answers are log-probabilities."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(50, 16), nn.Parameter(torch.randn(1, 64, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(16, classes)

    def forward(self, x):  # noqa: D102
        x = self.embedding(x) + self.places[:, : x.shape[1]]
        return torch.log_softmax(self.fc(self.encoder(x).mean(1)), dim=-1)


class Tied(nn.Module):
    """A language model whose logits layer is its embedding."""

    def __init__(self, tokens: int = 30) -> None:
        super().__init__()
        self.tokens, self.lstm = nn.Embedding(tokens, 12), nn.LSTM(12, 12, batch_first=True)

    def forward(self, x):  # noqa: D102
        return self.lstm(self.tokens(x))[0][:, -1] @ self.tokens.weight.T


class Features(nn.Module):
    """Dense layers and BN over vectors."""

    def __init__(self, classes: int = 3, *, affine: bool = True) -> None:
        super().__init__()
        self.first, self.bn, self.norm = nn.Linear(10, 16), nn.BatchNorm1d(16, affine=affine), nn.LayerNorm(16)
        self.second, self.third, self.fc = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, classes)

    def forward(self, x):  # noqa: D102
        x = torch.relu(self.bn(self.first(x)))
        return self.fc(self.norm(torch.relu(self.third(torch.relu(self.second(x))))))


class Summed(nn.Module):
    """A convolution with BN, and a sum from the first step to each, whose operator has no gradient on the device."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.bn, self.norm = nn.Conv1d(6, 8, 3), nn.BatchNorm1d(8), nn.LayerNorm(18)
        self.fc = nn.Linear(8 * 18, classes)

    def forward(self, x):  # noqa: D102
        return self.fc(self.norm(torch.cumsum(torch.relu(self.bn(self.conv(x))), 2)).flatten(1))


def _numbers(*shape):
    return lambda n, seed=0: torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def _tokens(count, length):
    return lambda n, seed=0: torch.randint(0, count, (n, length), generator=torch.Generator().manual_seed(seed))


STRANGERS = {
    "residual": (Residual, _numbers(3, 8, 8), 5), "recurrent": (Recurrent, _numbers(6, 20), 4), "gated": (Gated, _numbers(6, 20), 3),
    "attention": (Attention, _tokens(50, 12), 4), "tied": (Tied, _tokens(30, 9), 30), "features": (Features, _numbers(10), 3),
    "summed": (Summed, _numbers(6, 20), 3),
    "without affine": (lambda: Features(affine=False), _numbers(10), 3),
}  # fmt: skip
"""Name → class, samples (n, seed), and number of classes."""


def stranger(name):
    """Return a module in evaluation mode, whose BN has seen samples, and a function that draws samples."""
    make, samples, classes = STRANGERS[name]
    torch.manual_seed(3)
    module = make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        module.train()
        for seed in range(20):
            module(2 * samples(32, seed) + 1 if samples(1).is_floating_point() else samples(32, seed))
    return module.eval(), samples, [f"c{number}" for number in range(classes)]
