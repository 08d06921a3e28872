"""What a mixture adds to the loss: the entropy regulariser and its ramp; and the hand-designed patterns."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoform.train.kinds.mixture.objectives import (
    attraction_weight,
    entropy_regulariser,
    entropy_weight,
    template_attraction,
    template_cosine,
)
from isoform.train.kinds.mixture.patterns import PATTERNS
from isoform.train.kinds.mixture.recipe import MixtureTable


def test_entropy_is_0_for_one_hot_and_1_for_uniform() -> None:
    """R spans 0 to 1 whatever K is, and has a finite gradient at one-hot rows."""
    for k in (2, 4, 7):
        assert entropy_regulariser(torch.full((3, 5, k), 7.0)).item() == pytest.approx(1)
        assert entropy_regulariser(1e4 * torch.eye(k)).item() == 0
    assert entropy_regulariser(torch.ones(2, 3, 1)).item() == 0
    logits = torch.tensor([[0.0, -1e4]], requires_grad=True)
    entropy_regulariser(logits).backward()
    assert torch.isfinite(logits.grad).all()


def test_entropy_equals_the_formula() -> None:
    """R is the mean of -Σ ξ log ξ / log K."""
    xi = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    expected = np.mean([-sum(p * math.log(p) for p in row) / math.log(3) for row in xi.tolist()])
    assert entropy_regulariser(xi.log() + 3).item() == pytest.approx(expected, rel=1e-5)


def test_attraction_equals_the_formula() -> None:
    """A is the mean of Σ ξ_k |θ_k - θ|² over the mean of |θ_k|²."""
    rng = np.random.default_rng(0)
    theta, xi = rng.normal(size=(3, 50)), rng.dirichlet(np.ones(3), size=(2, 4))
    mixed = xi @ theta
    spread = np.einsum("tlk,tlk->tl", xi, ((theta - mixed[:, :, None]) ** 2).sum(-1))
    expected = spread.mean() / (theta**2).sum(1).mean()
    assert template_attraction(torch.tensor(xi), torch.tensor(theta)).item() == pytest.approx(expected)


def test_attraction_pulls_templates_to_their_mixtures() -> None:
    """It is 0 where layers are one-hot or templates alike; its gradient moves each template towards the mixture, those in use the most."""
    theta = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]], requires_grad=True)
    assert template_attraction(torch.eye(3), theta).item() == pytest.approx(0, abs=1e-6)
    assert template_attraction(torch.full((1, 3), 1 / 3), torch.ones(3, 2)).item() == pytest.approx(0, abs=1e-6)
    xi = torch.tensor([[0.8, 0.2, 0.0]])
    template_attraction(xi, theta).backward()
    towards = (xi @ theta.detach()) - theta.detach()
    assert [float(-theta.grad[k] @ towards[k]) > 0 for k in (0, 1)] == [True, True]
    assert theta.grad[2].abs().max() == 0
    assert template_cosine(torch.ones(4, 9)) == pytest.approx(1)
    assert template_cosine(torch.eye(4)) == pytest.approx(0)
    assert template_cosine(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(-1)


def test_the_ramp() -> None:
    """λ is 0 before its start, rises linearly, and stays; a hand-designed signature has none."""
    table = MixtureTable(entropy=4, entropy_start=0.2, entropy_end=0.6)
    found = [entropy_weight(step, 100, table) for step in (0, 20, 40, 60, 99)]
    assert found == pytest.approx([0, 0, 2, 4, 4])
    table = MixtureTable(attraction=2, attraction_start=0.5, signature="discrete")
    assert [attraction_weight(step, 100, table) for step in (0, 50, 75, 100)] == pytest.approx([0, 0, 1, 2])
    for signature in ("cyclic", "free"):
        fixed = MixtureTable(signature=signature, attraction=2)
        assert (entropy_weight(99, 100, fixed), attraction_weight(99, 100, fixed)) == (0, 0)


@given(st.sampled_from(sorted(PATTERNS)), st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_patterns_are_sequences(name, layers, templates, seed) -> None:
    """Every pattern has one template index per layer, the same for the same seed."""
    pattern = PATTERNS[name](layers, templates, seed=seed)
    assert len(pattern) == layers
    assert set(pattern) <= set(range(templates))
    assert pattern == PATTERNS[name](layers, templates, seed=seed)


def test_patterns_by_example() -> None:
    """The patterns are those that the paper describes."""
    assert PATTERNS["sequential"](8, 4) == (0, 0, 1, 1, 2, 2, 3, 3)
    assert PATTERNS["cyclic"](8, 4) == (0, 1, 2, 3, 0, 1, 2, 3)
    assert PATTERNS["progressive"](11, 4) == (0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)
    assert PATTERNS["random"](8, 4, seed=0) != PATTERNS["random"](8, 4, seed=1)
