"""Four networks and their data: pictures, windows of sensors, tokens. All weights begin at random.

resnet18, mobilenet    torchvision's ResNet-18 and MobileNetV3-Small on scikit-learn's digits, enlarged to 32×32 and in three channels; users
                       write slanted, or with a thick pen
lstm                   three LSTM layers over recordings of a phone in a pocket, six activities; users are two people held out
transformer            two encoder layers over the 64 pixels of a digit as tokens, 17 levels of grey; users as above
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.learning.motion import Motion
from isoform.runtime.arrays import Array
from isoform.train.data.load import load_task
from isoform.train.data.samples import Split
from isoform.train.recipe import DataRecipe, TaskRecipe

__all__ = ["SUBJECTS", "Subject", "subject"]

SHOTS = 10
"""Samples per class that a user learns from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A network and its data."""

    model: nn.Module
    train: Split
    test: Split
    users: Mapping[str, tuple[Split, Split]]
    """User → samples to learn from, and to test on."""
    classes: tuple[str, ...]
    rounds: int = 1
    """How many times as many batches it is trained for as the others: small networks learn more slowly."""


class Recurrent(nn.Module):
    """Three LSTM layers, and the state after the last step."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(channels, 48, 3, batch_first=True), nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Windows (n, channels, steps) → logits (n, classes)."""
        logits: Tensor = self.fc(self.lstm(x.transpose(1, 2))[0][:, -1])
        return logits


class Encoder(nn.Module):
    """Two transformer layers over tokens with learned places, and their mean."""

    def __init__(self, tokens: int, length: int, classes: int) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(tokens, 32), nn.Parameter(torch.randn(1, length, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder, self.fc = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (n, length) → logits (n, classes)."""
        logits: Tensor = self.fc(self.encoder(self.embedding(x) + self.places).mean(1))
        return logits


def _vision(name: str) -> nn.Module:
    # a wheel for GPUs beside torch's build for processors cannot load its operators; no network here uses them
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _vision.library = library  # type: ignore[attr-defined]  # what is defined lives as long as this object
    model: nn.Module = getattr(importlib.import_module("torchvision.models"), name)(num_classes=10)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1  # MobileNet's 0.01 is for longer training
    return model


def _digits(make: Callable[[], nn.Module], side: int, change: Callable[[Array], Array], *, rounds: int = 1) -> Subject:
    def halves(domain: str) -> tuple[Split, Split]:
        found = load_task(TaskRecipe(data="digits", domain=domain), DataRecipe(input_shape=(1, side, side)), root=None)
        assert found.test is not None
        return tuple(Split(images=change(half.images), labels=half.labels) for half in (found.train, found.test))  # type: ignore[return-value]

    train, test = halves("plain")
    users = {}
    for user in ("slanted", "thick"):
        learn, other = halves(user)
        rng = np.random.default_rng(0)
        rows = np.concatenate([rng.permutation(np.flatnonzero(learn.labels == label))[:SHOTS] for label in range(10)])
        users[user] = Split(images=learn.images[rows], labels=learn.labels[rows]), other
    return Subject(model=make(), train=train, test=test, users=users, classes=tuple(map(str, range(10))), rounds=rounds)


def _people(data: Path) -> Subject:
    study = Motion(data)
    (x, labels), _, classes = study.training(0)
    rows = np.random.default_rng(0).permutation(len(x))
    parts = (rows[: len(x) * 9 // 10], rows[len(x) * 9 // 10 :])
    train, test = (Split(images=_steps(x[some]), labels=labels[some]) for some in parts)
    users = {
        f"person {user}": tuple(
            Split(images=_steps(images), labels=named)
            for images, named in (study.learning(user, shots=SHOTS, seed=0), study.testing(user))
        )
        for user in study.held_out(0)[:2]
    }
    return Subject(
        model=Recurrent(x.shape[1], len(classes)), train=train, test=test, users=users, classes=classes, rounds=4
    )  # type: ignore[arg-type]


def _steps(x: Array) -> Array:
    """(n, channels, 1, steps) → (n, channels, steps)."""
    return np.ascontiguousarray(x[:, :, 0])


def _colours(x: Array) -> Array:
    return np.ascontiguousarray(np.repeat(x, 3, axis=1))


def _levels(x: Array) -> Array:
    return np.rint(16 * x).astype(np.int64).reshape(len(x), -1)


SUBJECTS: Mapping[str, Callable[[Path], Subject]] = {
    "resnet18": lambda _: _digits(lambda: _vision("resnet18"), 32, _colours),
    "mobilenet": lambda _: _digits(lambda: _vision("mobilenet_v3_small"), 32, _colours), "lstm": _people,
    "transformer": lambda _: _digits(lambda: Encoder(17, 64, 10), 8, _levels, rounds=8),
}  # fmt: skip


def subject(name: str, data: Path) -> Subject:
    """Make a network, and load its data. Raises ``DataError`` if they are not there."""
    torch.manual_seed(0)
    return SUBJECTS[name](data)
