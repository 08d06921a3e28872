"""Runs: 0 and 1 for samples in random order; what a mean of runs is worth, beside its variance over many drawn streams."""

import numpy as np
import pytest

from isoform.runtime.adapt.methods.runs import BLOCK, Runs


def stream(
    rng: np.random.Generator, *, run: int, samples: int = 512, classes: int = 50
) -> tuple[np.ndarray, np.ndarray]:
    """Rows as a first BN layer of 40 values sees them, and labels; every class's mean differs, with variance 0.25, and lasts for a run."""
    means = rng.normal(0, 0.5, (classes, 2, 20))
    labels = np.repeat(rng.integers(classes, size=-(-samples // run)), run)[:samples]
    rows = means[labels] + rng.normal(0, np.sqrt(0.75), (samples, 2, 20))
    return rows.transpose(1, 0, 2), labels


@pytest.mark.parametrize("batch", [1, 16, 128])
def test_random_order(batch: int) -> None:
    """Nothing is alike, whatever the batches; a single sample has no neighbour."""
    rng, made = np.random.default_rng(0), Runs()
    assert (made.likeness, made.factor) == (0.0, 1.0)
    rows, labels = stream(rng, run=1)
    for start in range(0, 512, batch):
        made.met(rows[:, start : start + batch], 0.25)
        made.predicted(np.eye(50)[labels[start : start + batch]])
    assert made.likeness < 0.1
    assert made.factor < 1.3


@pytest.mark.parametrize("run", [4, 16])
def test_a_mean_of_runs_is_worth_less(run: int) -> None:
    """φ is the ratio of variances that many streams show, within a fifth: 1 + (run - 1) / 4 here."""
    found, means = [], []
    for seed in range(40):
        rng, made = np.random.default_rng(seed), Runs()
        rows, _ = stream(rng, run=run, classes=1000)
        for start in range(0, 512, 16):
            made.met(rows[:, start : start + 16], 0.25)
        found.append(made.factor)
        means.append(rows.mean(axis=1))
    variance = float((np.stack(means) ** 2).mean()) * 512  # the stream's own mean is 0
    assert variance == pytest.approx(1 + (run - 1) / 4, rel=0.1)
    assert np.mean(found) == pytest.approx(variance, rel=0.2)


def test_uncertain_neighbours() -> None:
    """Predictions of one class that are half wrong, each in another way: κ of neighbours is far above 0; single samples see it, too."""
    rng = np.random.default_rng(0)
    p = np.full((64, 50), 0.5 / 49)
    p[np.arange(64), np.where(rng.random(64) < 0.6, 7, rng.integers(50, size=64))] = 0.5
    whole, one = Runs(), Runs()
    whole.predicted(p)
    for row in p:
        one.predicted(row[None])
    assert whole.likeness > 0.2
    assert one.likeness == pytest.approx(whole.likeness, abs=0.15)


def test_better_predictions_replace_the_last() -> None:
    """They are of the same samples: as if the first ones had never been."""
    poor, good = np.tile(np.eye(10)[3], (16, 1)), np.eye(10)[np.arange(16) % 10]
    again, once = Runs(), Runs()
    again.predicted(poor)
    assert again.likeness == 1
    again.predicted(good, again=True)
    once.predicted(good)
    assert again.likeness == once.likeness < 0.1


def test_another_domain_is_no_run() -> None:
    """A block that is farther from the last than two classes can be is not compared with it, nor is one after a change that was noticed."""
    rng = np.random.default_rng(0)
    here, near, far = (rng.normal(centre, 1, (2, BLOCK, 20)) for centre in (0, 0.6, 3))
    for block, noticed, alike in ((near, False, False), (near, True, True), (far, False, True)):
        made = Runs()
        made.met(here, 0.25)
        if noticed:
            made.moved()
        made.met(block, 0.25)
        assert made.factor == 1 if alike else made.factor > 2
