"""One step of the loop, as a kind can ask for it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from isoform.train.kind import Group, Loss
from isoform.train.loop import _step


def test_a_step_may_be_several_updates() -> None:
    """Tasks come in the order that the kind says, each update with its rate and its gradient clipped; figures are means over updates."""
    weight = nn.Parameter(torch.zeros(2))
    seen = []

    def loss(step, batches) -> Loss:
        seen.append((step, dict(batches)))
        (batch,) = batches.values()
        return Loss(total=weight @ torch.tensor([3.0, 4.0]), figures={"loss": batch}, clip=1.0)

    run = SimpleNamespace(
        begin=lambda step, optimizer: [[1], [0]], loss=loss, figures=lambda: {"weight": weight[1].item()}
    )
    groups = [Group(parameters=[weight], rate=lambda step: step / 2, field="table.lr")]
    figures = _step(2, run, groups, torch.optim.SGD([weight], lr=9.0), [{2: 10.0}, {2: 30.0}])
    assert seen == [(2, {1: 30.0}), (2, {0: 10.0})]
    assert weight.tolist() == pytest.approx([-1.2, -1.6], rel=1e-4)
    assert figures == {"loss": 20.0, "weight": pytest.approx(-1.6, rel=1e-4)}


def test_parts_of_a_step_are_averaged() -> None:
    """The update is by the mean of the parts' gradients, each of its own batch; the figures are means over the parts."""
    weight = nn.Parameter(torch.zeros(()))
    run = SimpleNamespace(
        begin=lambda step, optimizer: [[0]], figures=dict,
        loss=lambda step, batches: Loss(total=weight * batches[0], figures={"loss": batches[0]}),
    )  # fmt: skip
    groups = [Group(parameters=[weight], rate=lambda step: 1.0, field="table.lr")]
    figures = _step(2, run, groups, torch.optim.SGD([weight], lr=9.0), [{6: 1.0, 7: 5.0, 8: 9.0}], parts=3)
    assert weight.item() == pytest.approx(-5.0)
    assert figures == {"loss": 5.0}
