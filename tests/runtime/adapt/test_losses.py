"""Losses without labels: gradients are slopes, and the concentration says how few classes there are."""

import numpy as np
import pytest

from isoform.runtime.adapt.losses import (
    concentration,
    entropies,
    entropy_loss,
    information_loss,
    likelihood_ratio_loss,
)
from isoform.runtime.arrays import softmax

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 4)) * 2
WEIGHTS = RNG.uniform(0, 2, 5)
MIXTURE = np.array([0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    "loss",
    [
        entropy_loss,
        lambda z: entropy_loss(z, weights=WEIGHTS),
        lambda z: information_loss(z, prior=MIXTURE),
        lambda z: information_loss(z, prior=MIXTURE, kappa=0.3),
        likelihood_ratio_loss,
        lambda z: likelihood_ratio_loss(z, weights=WEIGHTS),
    ],
)
def test_a_gradient_is_the_slope(loss) -> None:
    """Central differences of the loss in float64."""
    _, found = loss(LOGITS)
    expected = np.zeros_like(LOGITS)
    for place in np.ndindex(LOGITS.shape):
        away = np.zeros_like(LOGITS)
        away[place] = 1e-6
        expected[place] = (loss(LOGITS + away)[0] - loss(LOGITS - away)[0]) / 2e-6
    assert np.abs(found - expected).max() < 1e-6


def test_information_of_a_batch_alone() -> None:
    """Without a mixture it is the mean entropy less the entropy of the mean, and no step makes it smaller than -ln C."""
    p = softmax(LOGITS)
    mean = p.mean(axis=0)
    assert information_loss(LOGITS)[0] == pytest.approx(entropies(p).mean() + (mean * np.log(mean)).sum())
    assert information_loss(100 * np.eye(4))[0] == pytest.approx(-np.log(4))


def test_losses_stay_finite() -> None:
    """Logits as large as float32 holds give finite losses and slopes."""
    for logits in (np.full((3, 4), 3e38), np.diag([3e38, -3e38, 3e38, 0.0])):
        for loss in (entropy_loss, information_loss, likelihood_ratio_loss):
            value, slope = loss(logits)
            assert np.isfinite(value)
            assert np.isfinite(slope).all()


def test_concentration() -> None:
    """0 for an even mixture, 1 for one class or one sample; what an even mixture shows by chance is taken off."""
    assert concentration(np.full(10, 0.1), 1.0, 1000) == 0
    assert concentration(np.eye(10)[0], 1.0, 1000) == pytest.approx(1)
    assert concentration(np.full(10, 0.1), 1.0, 1) == 1
    assert concentration(np.eye(1)[0], 1.0, 50) == 1
    assert concentration(np.full(10, 0.1), 0.1, 50) == 0  # nothing but guesses
    found = [concentration(RNG.multinomial(64, np.full(10, 0.1)) / 64, 1.0, 64) for _ in range(200)]
    assert np.mean(found) < 0.02
    two = np.zeros(10)
    two[:2] = 0.5
    assert concentration(two, 1.0, 1000) == pytest.approx(4 / 9, abs=0.01)


def test_concentration_of_uncertain_predictions() -> None:
    """Of a hundred classes, each found with a third of the probability: ten at a time show, though no prediction is certain."""

    def kappa(classes) -> float:
        p = np.full((256, 100), 2 / 3 / 99)
        p[np.arange(256), RNG.choice(classes, 256)] = 1 / 3
        return concentration(p.mean(axis=0), float((p**2).sum(axis=1).mean()), 256)

    assert kappa(100) < 0.01
    assert kappa(10) == pytest.approx(0.09, abs=0.02)
    assert kappa(1) == pytest.approx(1)
