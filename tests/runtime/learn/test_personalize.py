"""Personalizing: better or unchanged, deterministic, only what may move, and a clear answer to what cannot be learned from."""

import argparse
import inspect
import logging

import numpy as np
import pytest
from support import SMALL, make_bundle

from isoform.compile.kinds.mixture.training import training_graphs
from isoform.runtime.commands.personalize import add_arguments_personalize
from isoform.runtime.errors import InputError, SignatureError, UsageError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.discrete import xi_of
from isoform.runtime.kinds.mixture.learn.learner import MixtureLearner
from isoform.runtime.learn.fits import fit
from isoform.runtime.learn.fits.trial import ENOUGH, Score, held_back
from isoform.runtime.learn.personalize import STEPS, personalize
from isoform.runtime.runtime import Runtime
from isoform.train.data.domains import transform
from isoform.train.data.formats.digits import digits


@pytest.fixture(scope="module")
def slanted():
    """Slanted digits: eight samples of each class with labels, and 400 others to test on."""
    images, labels = digits()
    images = transform(images, domain="slanted")
    rows = np.concatenate([np.flatnonzero(labels == label)[:8] for label in range(10)])
    rest = np.setdiff1d(np.arange(len(labels)), rows)[:400]
    return images[rows], labels[rows].astype(np.int64), images[rest], labels[rest]


def accuracy(runtime, signature, slanted) -> float:
    """In percent, on samples that were not learned from."""
    return 100 * float((runtime.predict(slanted[2], signature).argmax(1) == slanted[3]).mean())


def test_the_same_number_of_steps_everywhere() -> None:
    """``rt.personalize``, what it runs, and the command line agree on how many steps there are at most."""
    parser = argparse.ArgumentParser()
    add_arguments_personalize(parser)
    assert parser.get_default("steps") == STEPS
    assert inspect.signature(Runtime.personalize).parameters["steps"].default == STEPS


FULL = ("mixture", "bn", "head")


def test_the_default_is_a_kilobyte(runtime, slanted) -> None:
    """Coefficients alone move, and the accuracy rises by far more than chance."""
    outcome = runtime.fit(*slanted[:2], steps=60)
    assert outcome.improved
    assert set(outcome.signature.parts) <= {"delta", "bn.coefficients"}
    assert len(outcome.signature.encode()) <= 1024
    assert accuracy(runtime, outcome.signature, slanted) > accuracy(runtime, outcome.start, slanted) + 15


def test_a_new_domain_is_learned(runtime, slanted) -> None:
    """A start is chosen, every part moves, accuracy rises by far more than chance, and the account is right."""
    assert runtime.bundle.kind.full_moves == FULL
    outcome = runtime.fit(*slanted[:2], parts=FULL, steps=60)
    before, after = (accuracy(runtime, signature, slanted) for signature in (outcome.start, outcome.signature))
    assert outcome.improved
    assert after > before + 15
    assert outcome.start.digest in {runtime.signature(task).digest for task in runtime.tasks}
    assert outcome.after.loss < outcome.before.loss
    assert outcome.held_back == 80
    assert 0 <= outcome.steps <= 60
    assert outcome.stopped == ""
    assert {"mixture", "bn.affine", "logits.weight", "logits.bias"} <= set(outcome.signature.parts)


def test_the_same_seed_gives_the_same_file(runtime, slanted, tmp_path) -> None:
    """Twice the same bytes; another seed gives others. The file works in another process's runtime, and names where it is from."""
    one, two, other = (runtime.personalize(*slanted[:2], steps=20, seed=seed) for seed in (0, 0, 1))
    assert one.encode() == two.encode()
    assert one.digest != other.digest
    one.save(tmp_path / "me.safetensors")
    loaded = Signature.load(tmp_path / "me.safetensors")
    assert loaded.parent == loaded.base == runtime.signature(loaded.task).digest
    with Runtime.open(runtime.bundle.path) as fresh:
        assert np.array_equal(fresh.predict(slanted[2], loaded), runtime.predict(slanted[2], one))


@pytest.mark.parametrize(
    ("parts", "expected", "limit"),
    [
        (("mixture",), {"mixture"}, 1024),
        (("bn",), {"bn.affine"}, 24 * 1024),
        (("head",), {"logits.weight", "logits.bias"}, 12 * 1024),
        (("mixture", "head"), {"mixture", "logits.weight", "logits.bias"}, 12 * 1024),
    ],
)
def test_only_what_may_move_is_in_the_result(runtime, slanted, parts, expected, limit) -> None:
    """What is not named stays the start's, and the file is small."""
    base = runtime.signature("plain")
    found = runtime.fit(*slanted[:2], base, parts=parts, statistics=False, steps=40)
    assert found.improved
    assert set(found.signature.parts) == expected
    assert len(found.signature.encode()) <= limit
    start, end = (runtime.bundle.resolve(signature).parts for signature in (base, found.signature))
    for name, array in start.items():
        assert np.array_equal(array, end[name]) == (name not in expected), name


def test_statistics_are_taken_where_they_help(runtime, slanted) -> None:
    """Faded samples: the base's BN statistics do not fit, the samples' own do, and they are in the file."""
    x = transform(np.array(slanted[0]), domain="low_contrast")
    with_them, without = (
        runtime.fit(x, slanted[1], runtime.signature("plain"), parts=("bn",), statistics=allowed, steps=20)
        for allowed in (None, False)
    )
    assert with_them.statistics
    assert "bn.statistics" in with_them.signature.parts
    assert "bn.statistics" not in without.signature.parts
    assert with_them.after.loss < without.after.loss


def test_a_discrete_start_can_move(runtime, slanted) -> None:
    """The compiled bases' layers are one-hot, where a softmax has no slope; a fit leaves them all the same."""
    from isoform.runtime.kinds.mixture.discrete import discrete_logits

    spec = runtime.bundle.spec
    base = runtime.bundle.signatures["plain"]
    sequence = discrete_logits([0] * spec.layers, spec.templates)
    start = base.replace(parts={**base.parts, "mixture": sequence})
    found = runtime.fit(*slanted[:2], start, parts=("mixture",), steps=30)
    assert found.improved
    assert np.abs(xi_of(found.signature.parts) - xi_of(start.parts)).max() > 0.05


def rated(monkeypatch, changed) -> None:
    """Let fits go at other rates."""
    monkeypatch.setattr(fit, "HEAD_RATE", changed(fit.HEAD_RATE))
    rates = {name: changed(rate) for name, rate in MixtureLearner.rates.items()}
    monkeypatch.setattr(MixtureLearner, "rates", rates)


def test_what_does_not_help_is_not_handed_back(runtime, slanted, monkeypatch, caplog) -> None:
    """Fits that climb the loss instead: the start comes back, the same object, and that is said."""
    rated(monkeypatch, lambda rate: -rate)
    base = runtime.signature("plain")
    with caplog.at_level(logging.WARNING, "isoform.runtime"):
        assert runtime.personalize(*slanted[:2], base, statistics=False, steps=30) is base
    assert "the start is returned unchanged" in caplog.text


def test_one_sample_per_class(runtime, slanted) -> None:
    """Nothing can be held back: the fit moves until the samples are explained, and no further."""
    x, labels = slanted[0][::8], slanted[1][::8]
    assert held_back(labels, seed=0) == []
    outcome = runtime.fit(x, labels, runtime.signature("plain"))
    assert outcome.improved
    assert outcome.held_back == 0
    assert outcome.after.accuracy >= outcome.before.accuracy
    assert "too few to hold any out" in outcome.sentence()
    again = runtime.fit(x, labels, outcome.signature)
    if outcome.after.loss <= ENOUGH:
        assert again.signature is outcome.signature
    assert again.after.loss <= outcome.after.loss + 1e-6


def test_one_sample_per_class_moves_no_bn(runtime, slanted) -> None:
    """BN needs more samples than that: where other parts may move, its affine and, for a start that gets most right, its statistics stay."""
    x, labels = slanted[0][::8], slanted[1][::8]
    outcome = runtime.fit(x, labels, runtime.signature("plain"), parts=FULL, steps=40)
    before, after = (runtime.bundle.resolve(signature).parts for signature in (outcome.start, outcome.signature))
    assert outcome.improved
    assert np.array_equal(before["bn.affine"], after["bn.affine"])
    assert not np.array_equal(before["mixture"], after["mixture"])
    alone = runtime.fit(x, labels, runtime.signature("plain"), parts=("bn",), steps=40)
    assert "bn.affine" in alone.signature.parts


def test_a_class_given_for_another_is_no_gain() -> None:
    """As many right, but others, or one more by chance: not better, whatever the loss says. None lost and a lower loss, or many won: better."""
    start = Score(loss=2.0, accuracy=0.5, right=frozenset({0, 1}))
    assert not Score(loss=0.5, accuracy=0.5, right=frozenset({2, 3})).better_than(start)
    assert not Score(loss=0.5, accuracy=0.25, right=frozenset({0})).better_than(start)
    assert not Score(loss=2.0, accuracy=0.5, right=frozenset({0, 1})).better_than(start)
    assert Score(loss=0.5, accuracy=0.5, right=frozenset({0, 1})).better_than(start)
    assert not Score(loss=0.5, accuracy=0.75, right=frozenset({1, 2, 3})).better_than(start)
    many = Score(loss=0.5, accuracy=0.75, right=frozenset({1, 2, 3, 4, 5}))
    assert many.better_than(start)
    assert not many.better_than(start, errors=2)


def test_samples_held_back_are_never_all_of_a_class() -> None:
    """Folds are disjoint, leave a sample of every class to learn from, and are of all classes with two samples."""
    labels = np.array([0] * 9 + [1] * 3 + [2])
    found = held_back(labels, seed=0)
    assert sorted(np.concatenate(found)) == list(range(12))
    for fold in found:
        assert set(np.delete(labels, fold)) == {0, 1, 2}
    assert [len(held_back(np.repeat([0, 1], count), seed=0)) for count in (1, 2, 3, 4, 20, 60)] == [0, 2, 3, 4, 4, 1]


def test_a_logits_layer_of_ones_own(runtime, slanted) -> None:
    """Labels that the bundle does not know: a layer for them, and their names, in the result."""
    names = np.array(["even", "odd"])[slanted[1] % 2]
    found = runtime.fit(slanted[0], names, classes=("even", "odd"), steps=30)
    assert runtime.labels(found.signature) == ("even", "odd")
    logits = runtime.predict(slanted[2], found.signature)
    assert logits.shape == (400, 2)
    assert (logits.argmax(1) == slanted[3] % 2).mean() > 0.75
    assert runtime.predict(slanted[2], found.start).shape == (400, 2)
    mine = runtime.fit(slanted[0], names, found.signature, parts=("mixture",), steps=20)
    assert runtime.labels(mine.signature) == ("even", "odd")


def test_a_personal_signature_can_be_a_start(runtime, slanted) -> None:
    """What it holds of its own stays in the result, and the result names it as its parent."""
    x, labels = slanted[:2]
    first = runtime.personalize(x[::2], labels[::2], runtime.signature("plain"), parts=("head",), steps=30)
    second = runtime.fit(x[1::2], labels[1::2], first, parts=("bn",), statistics=False, steps=60)
    assert second.improved
    assert set(second.signature.parts) == {"bn.affine", "logits.weight", "logits.bias"}
    assert (second.signature.parent, second.signature.base) == (first.digest, first.base)
    assert np.array_equal(second.signature.parts["logits.weight"], first.parts["logits.weight"])


def test_time_and_ctrl_c_end_it_with_the_best_so_far(runtime, slanted) -> None:
    """The limit is kept, about; after Ctrl-C there is a signature too, and both are said."""
    late = runtime.fit(*slanted[:2], steps=10_000, seconds=0.3)
    assert late.stopped == "time"
    assert late.seconds < 10

    def stop(report) -> None:
        if report.step == 15:
            raise KeyboardInterrupt

    stopped = runtime.fit(*slanted[:2], runtime.signature("plain"), statistics=False, progress=stop)
    assert stopped.stopped == "ctrl-c"
    assert "stopped by Ctrl-C" in stopped.sentence()
    assert stopped.steps in (0, 10)
    assert runtime.predict(slanted[2], stopped.signature).shape == (400, 10)


def test_progress_says_where_it_stands(runtime, slanted) -> None:
    """One report per step, none beyond what was announced, and losses that are numbers."""
    reports = []
    runtime.fit(*slanted[:2], runtime.signature("plain"), steps=12, progress=reports.append)
    assert [report.step for report in reports] == sorted(report.step for report in reports)
    assert reports[-1].step <= reports[-1].steps
    assert all(np.isfinite([report.loss, report.best]).all() for report in reports)


def test_mixed_affine_moves_with_the_mixture() -> None:
    """Where the templates hold γ and β, a mixture alone takes them along, and the resolved signature agrees with what was fitted."""
    import dataclasses

    bundle = make_bundle(dataclasses.replace(SMALL, affine="mixed"), seed=1)
    learner = MixtureLearner(bundle, training_graphs(bundle.spec), threads=1)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 6)
    x = (rng.uniform(0, 1, (18, *SMALL.input_shape)) + labels[:, None, None, None]).astype(np.float32)
    found = personalize(learner, x, labels, starts=list(bundle.signatures.values()), parts=("mixture",), steps=60)
    assert found.improved
    assert set(found.signature.parts) == {"mixture"}


ONE = np.zeros((1, 1, 32, 32), dtype=np.float32)
TWO = np.zeros((2, 1, 32, 32), dtype=np.float32)


@pytest.mark.parametrize(
    ("x", "labels", "options", "error", "message"),
    [
        (ONE, [3], {}, InputError, "all 1 samples are of class '3', but at least two classes were expected"),
        (TWO, [3, 3], {}, InputError, "all 2 samples are of class '3'"),
        (ONE[:0], [], {}, InputError, "there are no samples|float64"),
        (TWO, [3, 10], {}, InputError, "label 10 of sample 1 is out of range; there are 10 classes, 0 to 9"),
        (TWO, [-1, 3], {}, InputError, "label -1 of sample 0 is out of range"),
        (TWO, [1], {}, InputError, r"labels have shape \(1,\) for 2 samples"),
        (TWO, [0.5, 1.5], {}, InputError, "labels are float64, but class names or whole numbers"),
        (TWO, ["0", "ten"], {}, InputError, "label 'ten' is not one of the classes 0, 1, .*--new-labels"),
        (TWO[:, :, :9], [0, 1], {}, InputError, r"\(n, 1, 32, 32\) was expected"),
        (np.full_like(TWO, np.nan), [0, 1], {}, InputError, "sample 0 holds a number that is not finite"),
        (np.full_like(TWO, 1e38), [0, 1], {}, InputError, "numbers so large that the loss is not finite"),
        (TWO, [0, 1], {"parts": ()}, UsageError, "one or more of mixture, delta, coefficients, bn, head"),
        (
            TWO,
            [0, 1],
            {"parts": ("mixture", "templates")},
            UsageError,
            "one or more of mixture, delta, coefficients, bn, head",
        ),
        (TWO, [0, 1], {"steps": 0}, UsageError, "steps is 0"),
        (TWO, [0, 1], {"seconds": float("nan")}, UsageError, "seconds is nan"),
        (TWO, [0, 1], {"classes": ("a", "b", "c")}, InputError, "class 'c' has no sample"),
        (TWO, [0, 1], {"classes": ("a", "a")}, InputError, "distinct strings"),
        (TWO, [0, 1], {"classes": ("a", "b"), "parts": ("bn",)}, UsageError, "parts has no 'head'"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(runtime, x, labels, options, error, message) -> None:
    """One sample, one class, labels out of range, samples of another shape or that are no numbers, arguments without sense."""
    with pytest.raises(error, match=message):
        runtime.personalize(x, labels, **options)


def test_strangers_are_refused(runtime) -> None:
    """A start for other templates, an engine that cannot learn, labels by index where bases differ in their classes."""
    stranger = make_bundle(SMALL).signatures["a"]
    with pytest.raises(SignatureError, match="was trained on templates"):
        runtime.personalize(TWO, [0, 1], stranger)
    with (
        Runtime.open(runtime.bundle.path, engine="reference") as slow,
        pytest.raises(UsageError, match="reference engine cannot"),
    ):
        slow.personalize(TWO, [0, 1])


def test_samples_without_any_contrast_do_no_harm(runtime) -> None:
    """Constant images of two classes: nothing to learn, nothing that is not finite."""
    x = np.zeros((20, 1, 32, 32), dtype=np.float32)
    found = runtime.fit(x, np.repeat([0, 1], 10), steps=20)
    for array in found.signature.parts.values():
        assert np.isfinite(array).all()
    assert found.after.loss <= found.before.loss


def test_a_fit_that_diverges_is_not_taken(runtime, slanted, monkeypatch) -> None:
    """Rates so high that numbers overflow: the start comes back, and no warning escapes."""
    rated(monkeypatch, lambda rate: 1e30)
    base = runtime.signature("plain")
    assert runtime.personalize(*slanted[:2], base, statistics=False, steps=20) is base
