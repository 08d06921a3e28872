"""Interpolation of a fit with its start: how far held-out samples let it go."""

import json

import numpy as np
import pytest
from support import isoform_here

from isoform.runtime.learn.fits import fit, trial
from isoform.runtime.learn.fits.trial import ALPHAS, Trial, held_back
from isoform.runtime.learn.learner import Point
from isoform.train.data.domains import transform

LABELS = np.tile([0, 1], 4)
X = LABELS[:, None].astype(np.float32)


class Line:
    """A learner of one number p that every step increases by the same; ``margins`` says how sure the network is on the way."""

    def __init__(self, margins: dict[float, float]) -> None:
        self.rates, self.margins, self.end = {"p": 100.0}, margins, 0.0

    def gradient(self, point, x, loss, *, moving):
        """Always uphill."""
        return 0.0, {"p": np.array([-1.0])}

    def logits(self, point, x):
        """The right class's logit; X holds the labels. The furthest p so far is 1, the end of the way."""
        p = float(point.parts["p"][0])
        self.end = max(self.end, p)
        margin = self.margins[round(p / self.end * 4) / 4 if self.end else 0.0]
        return margin * np.concatenate([1 - x, x], axis=1)


def best(learner: Line, *, start=None, **options):
    """The best result after ten steps, the first that is scored."""
    point = Point({"p": np.zeros(1)}, **options)
    found = Trial(
        learner, start or (lambda _: point), lambda _: point, X, LABELS, moving=("p",), back=held_back(LABELS, seed=0),
        seed=0,
    )  # fmt: skip
    assert list(found.run(steps=10, deadline=np.inf)) == list(range(1, 11))
    return found.best


@pytest.mark.parametrize(
    ("margins", "alpha"),
    [
        ((0.5, 1.0, 2.0, 4.0), 1.0),
        ((1.0, 3.0, 2.0, 2.0), 0.5),
        ((2.0, 2.0, 2.0, 2.0), 1.0),  # equal: the fit as it is
        ((-1.0, -1.0, 3.0, 2.0), 0.75),
    ],
)
def test_the_lowest_loss_decides(margins, alpha) -> None:
    """Of the fit and the points between it and the start; steps and score are those of the fit at that α."""
    learner = Line({0.0: -1.0, **dict(zip((*ALPHAS, 1.0), margins, strict=True))})
    found = best(learner)
    assert found.interpolation == alpha
    assert found.steps == 10
    assert found.point.parts["p"][0] == pytest.approx(alpha * learner.end)
    assert found.score.loss == pytest.approx(np.log1p(np.exp(-learner.margins[alpha])), abs=1e-6)


def test_whole_numbers_stay_whole() -> None:
    """Half of the way, rounded as a signature stores it."""
    learner = Line({0.0: -1.0, 0.25: 1.0, 0.5: 3.0, 0.75: 2.0, 1.0: 2.0})
    found = best(learner, whole=frozenset({"p"}))
    assert found.point.parts["p"].dtype == np.int64
    assert abs(found.point.parts["p"][0] - learner.end / 2) <= 1


def test_a_fit_that_does_not_help_has_none() -> None:
    """The start is the result, whatever lies between."""
    found = best(Line({0.0: 1.0, 0.25: 2.0, 0.5: 2.0, 0.75: 1.0, 1.0: -1.0}))
    assert found.point is None
    assert found.interpolation == 1


def test_a_fit_that_went_too_far_is_taken_back(runtime, samples, monkeypatch) -> None:
    """The logits layer at a hundred times its rate: the signature lies on the line from the start to the fit, and that is said."""
    x, labels = transform(np.array(samples[0][:120]), domain="slanted"), np.array(samples[1][:120])
    monkeypatch.setattr(fit, "HEAD_RATE", 100 * fit.HEAD_RATE)
    base = runtime.signature("plain")
    found = runtime.fit(x, labels, base, parts=("head",), steps=20)
    monkeypatch.setattr(trial, "ALPHAS", ())
    whole = runtime.fit(x, labels, base, parts=("head",), steps=20)
    assert (found.interpolation < 1, whole.interpolation) == (True, 1)
    assert found.after.loss < whole.after.loss
    for name in ("logits.weight", "logits.bias"):
        start, end = (signature.parts[name] for signature in (runtime.bundle.resolve(base), whole.signature))
        expected = start + found.interpolation * (end - start)
        assert np.allclose(found.signature.parts[name], expected, atol=1e-5), name
    assert f"steps (interpolated with the start, weight {found.interpolation:g}): on" in found.sentence()
    assert "interpolated" not in whole.sentence()


def test_starts_that_differ_have_none() -> None:
    """As with logits layers for new classes, which each fold computes from its own samples: the fit is taken as it is."""
    margins = {0.0: -1.0, 0.25: 1.0, 0.5: 3.0, 0.75: 2.0, 1.0: 2.0}
    assert best(Line(margins)).interpolation == 0.5
    assert best(Line(margins), start=lambda _: Point({"p": np.zeros(1)})).interpolation == 1


def test_the_command_prints_it(compiled, samples, tmp_path) -> None:
    """``interpolation``, a number from 0 to 1."""
    np.savez(tmp_path / "a.npz", x=samples[0][:40], labels=samples[1][:40])
    words = ("--data", tmp_path / "a.npz", "--task", "plain", "--parts", "head", "--steps", "1")
    said = isoform_here("personalize", compiled, *words, "-o", tmp_path / "a.safetensors")
    assert 0 < json.loads(said.stdout)["interpolation"] <= 1
