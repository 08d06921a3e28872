"""The router of Gumbel-Matrix: what it draws, its gradients, its temperature, and its penalties, by the formulas."""

import dataclasses
import math

import pytest
import torch
from modular import DENSE, NORMED, PLAIN

from isoform.train.kinds.allocation.network import ModularNetwork
from isoform.train.kinds.allocation.router import Router, budget_penalty, entropy, temperature


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.97])
def test_components_are_drawn_with_their_probability(probability) -> None:
    """Of 4,000 draws so many have the component, whatever the temperature; a place without a component is never drawn."""
    torch.manual_seed(0)
    router = Router(PLAIN, 2, initial=probability)
    for now in (0.5, 50.0):
        draws = torch.stack([router.sample(1, temperature=now) for _ in range(4000)])
        assert set(draws.unique().tolist()) <= {0.0, 1.0}
        assert draws[..., :3].mean().item() == pytest.approx(probability, abs=0.01)
        assert not draws[:, 1, 3].any()
    assert router.probabilities(0)[0].tolist() == pytest.approx([probability] * 4)
    assert router.probabilities(0)[1, 3] == 0
    assert router.likely(0)[1].tolist() == [float(probability >= 0.5)] * 3 + [0]


def test_gradients_are_those_of_the_softmax() -> None:
    """Straight through: hard values forward, y (1 - y) / T backward, with y the softmax at the noise that was drawn."""
    torch.manual_seed(3)
    router, now = Router(DENSE, 1, initial=0.5), 2.0
    torch.manual_seed(7)
    drawn = router.sample(0, temperature=now)
    drawn.sum().backward()
    torch.manual_seed(7)
    noise = -torch.log(-torch.log(torch.rand(2, 3, 2)))
    soft = torch.softmax((router.logits[0].detach() + noise) / now, dim=-1)[..., 0]
    expected = soft * (1 - soft) / now * router.exists
    assert torch.allclose(router.logits.grad[0, ..., 0], expected, atol=1e-6)
    assert torch.allclose(router.logits.grad[0, ..., 1], -expected, atol=1e-6)
    assert torch.equal(drawn.detach(), ((soft >= 0.5) * router.exists).to(drawn.dtype))


def test_the_temperature_falls() -> None:
    """From 50 by the root of the updates, down to 0.5, which is reached after 9,999."""
    assert temperature(0, start=50, end=0.5) == 50
    assert temperature(99, start=50, end=0.5) == pytest.approx(5)
    assert temperature(9_998, start=50, end=0.5) > 0.5
    assert temperature(9_999, start=50, end=0.5) == 0.5
    assert temperature(10**6, start=50, end=0.5) == 0.5


def test_penalties() -> None:
    """Nothing below the budget, the excess above it; the entropy of a coin per component."""
    router = Router(PLAIN, 1, initial=0.8)
    assert budget_penalty(router.probabilities(0), router.exists, budget=0.9) == 0
    assert budget_penalty(router.probabilities(0), router.exists, budget=0.5).item() == pytest.approx(0.3, abs=1e-6)
    fair = Router(PLAIN, 1, initial=0.5)
    assert entropy(fair.logits[0], fair.exists).item() == pytest.approx(7 * math.log(2), rel=1e-6)
    one = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    assert entropy(router.logits[0], router.exists).item() == pytest.approx(7 * one, rel=1e-5)


def test_every_component_gives_a_gradient() -> None:
    """A component that is not used gets no gradient itself, but its gate does: its output says whether using it would help."""
    network = ModularNetwork(NORMED, [3], initial=0.5, generator=torch.Generator().manual_seed(0))
    mask = network.router.exists.clone()
    mask[0, 0] = 0
    mask.requires_grad_(True)
    torch.manual_seed(0)
    network(torch.rand(4, *NORMED.input_shape), 0, mask).square().sum().backward()
    assert mask.grad[0, 0].abs() > 0
    unused, used = (network.layers[0].banks[0].tensors(index)["op0.weight"] for index in (0, 1))
    gradient = network.layers[0].banks[0]._weights[0].grad
    assert unused.shape == used.shape == gradient[0].shape
    assert not gradient[0].any()
    assert gradient[1].any()


def test_averaging_and_adding() -> None:
    """The mean of components is their sum over their number, whose gradient is counted too."""
    network = ModularNetwork(dataclasses.replace(DENSE, combine="mean"), [2], initial=0.5, generator=torch.Generator())
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    gates = network.gates(mask)
    assert gates.tolist() == [[0.5, 0.5, 0], [0, 0, 0]]
    gates[0, 0].backward()
    assert mask.grad[0].tolist() == [0.25, -0.25, -0.25]
    added = ModularNetwork(DENSE, [2], initial=0.5, generator=torch.Generator())
    assert added.gates(mask) is mask
