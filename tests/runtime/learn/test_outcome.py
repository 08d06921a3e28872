"""The interval of a change in accuracy."""

import dataclasses
import json
import re

import numpy as np
import pytest
from support import isoform_here

from isoform.runtime.learn.outcome import change_interval
from isoform.train.data.domains import transform


@pytest.mark.parametrize(("won", "lost"), [(0.0, 0.0), (0.05, 0.02), (0.3, 0.1), (0.6, 0.0), (0.2, 0.2)])
@pytest.mark.parametrize("samples", [10, 25, 100])
def test_it_covers_what_is_true(won, lost, samples) -> None:
    """In 92 of 100 draws or more, for few samples and many, whether much changes or nothing does."""
    rng = np.random.default_rng(0)
    draws = rng.multinomial(samples, [won, lost, 1 - won - lost], 4000)
    ends = np.array([change_interval(int(plus), int(minus), samples) for plus, minus, _ in draws])
    covered = ((ends[:, 0] <= won - lost) & (won - lost <= ends[:, 1])).mean()
    assert 0.92 <= covered <= 1
    assert (ends[:, 0] < ends[:, 1]).all()
    assert ends.min() >= -1
    assert ends.max() <= 1


def test_more_samples_tell_more() -> None:
    """The same shares of more samples have a narrower interval, and one that is clear does not contain 0."""
    few, many = change_interval(3, 1, 10), change_interval(30, 10, 100)
    assert many[1] - many[0] < few[1] - few[0]
    assert few[0] < 0 < many[0]


def test_an_outcome_has_it(runtime, samples) -> None:
    """For held-out samples; where none are held out there is none."""
    x, labels = transform(np.array(samples[0][:80]), domain="slanted"), np.array(samples[1][:80])
    outcome = runtime.fit(x, labels, runtime.signature("plain"), steps=40)
    assert outcome.improved
    low, high = outcome.change
    gained = (len(outcome.after.right) - len(outcome.before.right)) / outcome.held_back
    assert low < gained < high
    assert re.search(r"95 % interval of the change [+-]\d+ to [+-]\d+ points", outcome.sentence())
    assert dataclasses.replace(outcome, held_back=0).change is None


def test_the_command_prints_it(compiled, samples, tmp_path) -> None:
    """``accuracy_change``, two numbers."""
    np.savez(tmp_path / "a.npz", x=samples[0][:40], labels=samples[1][:40])
    words = ("--data", tmp_path / "a.npz", "--task", "plain", "--parts", "delta", "--steps", "1")
    said = isoform_here("personalize", compiled, *words, "-o", tmp_path / "a.safetensors")
    low, high = json.loads(said.stdout)["accuracy_change"]
    assert -1 <= low < high <= 1
