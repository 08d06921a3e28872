"""Losses and gaps that are NaN: they compare false with everything, and must neither hide what is good nor pass for it."""

import numpy as np
import pytest
from support import ROOT, SMALL, make_bundle

from isoform.compile.build import compile_bundle
from isoform.compile.kinds.mixture import verify_gradient
from isoform.compile.kinds.mixture.training import training_graphs
from isoform.runtime.arithmetic import nearest
from isoform.runtime.errors import CompileError, InputError, UsageError
from isoform.runtime.kinds.mixture.learn.blocks import open_blocks
from isoform.runtime.kinds.mixture.learn.learner import MixtureLearner
from isoform.runtime.learn.fits.trial import Trial, held_back
from isoform.runtime.learn.learner import Point
from isoform.runtime.learn.personalize import personalize
from isoform.runtime.runtime import Runtime
from isoform.train.data.samples import Split

pytestmark = pytest.mark.trust
BUNDLE = make_bundle(SMALL)
GRAPHS = training_graphs(SMALL)
LABELS = np.repeat(np.arange(3), 4)
X = (np.random.default_rng(0).uniform(0, 1, (12, *SMALL.input_shape)) + LABELS[:, None, None, None]).astype(np.float32)


def overflowing(name="a"):
    """A signature whose logits are not finite."""
    base = BUNDLE.signatures[name]
    return base.replace(parts={**base.parts, "logits.weight": np.full_like(base.parts["logits.weight"], 3e38)})


@pytest.fixture(scope="module")
def learner() -> MixtureLearner:
    """What learns over the small bundle."""
    return MixtureLearner(BUNDLE, GRAPHS, threads=1)


@np.errstate(over="ignore", invalid="ignore")
def test_a_start_whose_loss_is_not_finite_hides_no_other(learner) -> None:
    """The first of two starts overflows: the second is chosen; if all do, that is said."""
    good = BUNDLE.signatures["b"]
    found = personalize(learner, X, LABELS, starts=[overflowing(), good], steps=2)
    assert found.start is good
    assert np.isfinite([found.before.loss, found.after.loss]).all()
    with pytest.raises(InputError, match="the loss is not finite"):
        personalize(learner, X, LABELS, starts=[overflowing(), overflowing("b")], steps=2)


def test_statistics_that_are_not_finite_are_not_taken(learner) -> None:
    """A start so far off that the samples' variances overflow, while their logits do not: its own statistics stay."""
    base = BUNDLE.signatures["a"]
    statistics = np.array(base.parts["bn.statistics"])
    statistics[0] = -1e20
    start = base.replace(parts={**base.parts, "bn.statistics": statistics})
    found = personalize(learner, X, LABELS, starts=[start], steps=1)
    assert not found.statistics
    learner.bundle.resolve(found.signature)


@np.errstate(over="ignore")
def test_a_mean_that_is_not_finite_is_not_taken(learner) -> None:
    """Held-back samples do better, but the fit to all samples, which would be returned, has overflowed."""
    start = Point(BUNDLE.resolve(BUNDLE.signatures["a"]).parts)
    start = start.with_parts({"logits.weight": np.zeros((3, SMALL.embedding))})
    sure, unsure, broken = (start.with_parts({"logits.bias": np.array([0, bias, 0])}) for bias in (100.0, 1.0, 1e300))
    back = held_back(LABELS, seed=0)
    trial = Trial(
        learner, lambda _: sure, lambda _: sure, X, LABELS, moving=("logits.bias",), back=back, seed=0
    )  # fmt: skip
    trial.consider(lambda rows: broken if len(rows) == len(LABELS) else unsure)
    assert trial.best.point is None
    trial.consider(lambda _: unsure)
    assert trial.best.point is not None


def test_a_gradient_that_is_not_finite_is_refused(monkeypatch) -> None:
    """NaN in the last part's gradient, after others that agree: the largest difference is NaN, and that is refused."""
    real = verify_gradient.signature_gradient

    def poisoned(*arguments, **options):
        found = real(*arguments, **options)
        return {**found, "logits.bias": found["logits.bias"] * np.nan}

    monkeypatch.setattr(verify_gradient, "signature_gradient", poisoned)
    gap = verify_gradient.gradient_gap(
        BUNDLE, "a", Split(images=X, labels=LABELS), open_blocks(SMALL, GRAPHS, threads=1)
    )
    assert np.isnan(gap)


def test_arguments_that_are_no_numbers_are_refused_at_once(tmp_path) -> None:
    """NaN for a limit, a rate, a step size, a count."""
    with pytest.raises(CompileError, match="max_drop_points is nan"):
        compile_bundle(tmp_path / "nothing", max_drop_points=float("nan"))
    with pytest.raises(UsageError, match="count is nan"):
        nearest(BUNDLE, BUNDLE.signatures["a"], {}, count=float("nan"))
    with Runtime.open(ROOT / "docs" / "examples" / "bundle") as runtime:
        for method, name, value in (("spsa", "c", 0.0), ("spsa", "lr", np.nan), ("cma-es", "sigma", np.nan)):
            with pytest.raises(UsageError, match=f"{name} is {value}"):
                runtime.adapter(runtime.signature("plain"), method=method, **{name: value})
