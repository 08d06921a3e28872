# fmt: off
"""How ``fake_kind`` is trained, to show that training's door is one: task by task, in a new order every step, with dropout, by Adam."""

import dataclasses
from typing import ClassVar

import fake_kind
import torch
import torch.nn.functional as F
from torch import nn

from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.train.kind import Group, Loss
from isoform.train.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    embedding: int = 24
    lr: float = 0.01

@dataclasses.dataclass(frozen=True, kw_only=True)
class GainsRecipe(Recipe):
    kind: ClassVar[str] = "gains"
    gains: Table = Table()

class Run:
    def __init__(self, recipe, datasets):
        self.recipe, self.datasets = recipe, datasets
        self.spec = fake_kind.Sizes(input_shape=recipe.data.input_shape, embedding=recipe.gains.embedding)
        rows, columns = self.spec.template_shapes["matrix"]
        tasks = {name: nn.ParameterList([torch.ones(rows), *nn.Linear(rows, len(d.classes)).parameters()]) for name, d in datasets.items()}
        self.network = nn.ModuleDict({"matrix": nn.Linear(columns, rows, bias=False), **tasks})
        self.network.register_buffer("updates", torch.zeros((), dtype=torch.int64))
    def groups(self):
        return [Group(parameters=list(self.network.parameters()), rate=lambda step: self.recipe.gains.lr, field="gains.lr")]
    def begin(self, step, optimizer):
        return torch.randperm(len(self.datasets))[:, None].tolist()
    def logits(self, x, task, dropout=0.0):
        gains, weight, bias = self.network[list(self.datasets)[task]]
        return F.linear(F.dropout(F.relu(self.network["matrix"](x.flatten(1)) * gains), dropout), weight, bias)
    def loss(self, step, batches):
        self.network.updates += 1
        ((task, (x, y)),) = batches.items()
        loss = F.cross_entropy(self.logits(x, task, dropout=0.1), y)
        return Loss(total=loss, figures={"loss": loss.item()}, clip=5.0)
    def figures(self):
        return {"updates": float(self.network.updates)}
    def finish(self):
        self.network["matrix"].requires_grad_(False)
    def told(self):
        return {"updates": int(self.network.updates)}
    def bundle(self, training):
        arrays = {"matrix": self.network["matrix"].weight.numpy()}
        signatures = {}
        for name, dataset in self.datasets.items():
            parts = dict(zip(fake_kind.KIND.parts, (p.detach().numpy() for p in self.network[name]), strict=True))
            signatures[name] = Signature(
                parts=parts, template=template_digest(self.spec, arrays), task=name, labels=dataset.classes, kind="gains",
            )
        return Bundle.create(spec=self.spec, tensors=arrays, signatures=signatures, training=training)

class Trainer:
    recipe, start = GainsRecipe, Run
    line = staticmethod(lambda figures: f"loss {figures['loss']:.3f} after {figures['updates']:.0f} updates")

TRAINER = Trainer()
