"""Shrunk statistics: nothing moves without a shift, all moves with one, and a class is no shift.

Each with the bundle's directions of BN statistics and, as in a bundle that has none, without.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from isoform.runtime.adapt.methods.shrinkage import Shrinkage
from isoform.runtime.learn.learner import Point
from isoform.runtime.learn.source import Source
from isoform.train.data.domains import transform
from isoform.train.data.formats.digits import digits

EVEN = np.eye(10)


@pytest.fixture(params=[True, False], ids=["directions", "no directions"])
def shrinkage(runtime, request):
    """Makes a fresh one for task plain, and its point."""
    learner = runtime.learner
    if not request.param:
        learner = SimpleNamespace(directions=None, normalised=learner.normalised)
    bundle = runtime.bundle
    name = "source/plain.safetensors"
    parts = bundle.resolve(runtime.signature("plain")).parts
    source, point = Source.decode(bundle.require_compiled().read(name), parts=parts, name=name), Point(parts)
    return lambda: (Shrinkage(learner, source, point.parts["bn.statistics"], classes=10), point)


@pytest.fixture(scope="module")
def data():
    """All digits and their labels, shuffled."""
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(labels))
    return np.array(images[order]), labels[order]


def moved(result, point) -> float:
    """How far statistics are from the point's means, in its standard deviations: the mean over the channels."""
    mean, variance = point.parts["bn.statistics"]
    return float((np.abs(result.statistics[0] - mean) / np.sqrt(variance)).mean())


def test_samples_of_the_base_move_nothing(shrinkage, data) -> None:
    """What is seen is chance, so the statistics all but stay, whether one sample comes or 256; logits are the runtime's."""
    for count in (1, 8, 256):
        made, point = shrinkage()
        result = made.update(point, data[0][:count], EVEN if count > 1 else np.eye(10)[data[1][:1]])
        assert made.belief < 0.2
        assert moved(result, point) < 0.02


def test_another_domain_moves_all(runtime, shrinkage, data) -> None:
    """Faded digits are far away: D is large, and the statistics become the samples' own; one sample is nearly enough."""
    x = transform(data[0][:128], domain="low_contrast")
    made, point = shrinkage()
    result = made.update(point, x, EVEN)
    own = runtime.learner.statistics(point, x)
    gap = np.abs(result.statistics[0] - own[0]) / np.sqrt(point.parts["bn.statistics"][1])
    assert made.shift > 10
    assert made.belief > 0.1  # of deep BNs too, which see what the first ones have put right
    assert gap.mean() < 0.25 * moved(result, point)
    one, _ = shrinkage()
    assert moved(one.update(point, x[:1], np.eye(10)[:1]), point) > 0.5 * moved(result, point)


def test_a_class_is_no_shift(runtime, shrinkage, data) -> None:
    """Of one class's samples, most of what differs is explained by the class."""
    x, labels = data
    for label in (0, 1, 7):
        made, point = shrinkage()
        rows = x[labels == label][:64]
        known = moved(made.update(point, rows, np.eye(10)[[label] * 64]), point)
        assert made.kappa > 0.9
        own = np.abs(runtime.learner.statistics(point, rows)[0] - point.parts["bn.statistics"][0])
        assert known < 0.25 * float((own / np.sqrt(point.parts["bn.statistics"][1])).mean())


def test_a_new_domain_begins_a_new_stream(shrinkage, data) -> None:
    """Plain digits, then faded ones: the first batch of these is noticed, and forgets the others; the second is not."""
    made, point = shrinkage()
    for start in (0, 64, 128):
        made.update(point, data[0][start : start + 64], EVEN)
        assert not made.jumped
    made.update(point, transform(data[0][192:256], domain="low_contrast"), EVEN)
    assert made.jumped
    assert made.count == 64
    made.update(point, transform(data[0][256:320], domain="low_contrast"), EVEN)
    assert not made.jumped
    assert made.count == 128


def test_the_window_is_bounded(shrinkage, data) -> None:
    """However long the stream, it counts as 256 samples."""
    made, point = shrinkage()
    for start in range(0, 640, 128):
        made.update(point, data[0][start : start + 128], EVEN)
    assert made.count == 256
    made.reset()
    assert made.count == 0
    assert made.kappa == 1


def test_sorted_samples_of_the_base_move_nothing(shrinkage, data) -> None:
    """One class after the other, in small batches: neighbours are alike, a mean of them says less, and no new domain is seen."""
    x, labels = data
    made, point = shrinkage()
    order = np.argsort(labels, kind="stable")
    far = 0.0
    for start in range(0, len(order) - 16, 16):
        rows = order[start : start + 16]
        far = max(far, moved(made.follow(point, x[rows], lambda _, rows=rows: 9 * np.eye(10)[labels[rows]]), point))
        assert not made.jumped
    assert made.runs > 0.5
    assert far < 0.05


def test_the_first_batch_is_passed_again(shrinkage, data) -> None:
    """With what the first pass predicts, which is better than the base's guess; and only the first one, and only if it is no handful."""
    x = transform(data[0][:64], domain="low_contrast")
    made, point = shrinkage()
    guess = np.tile(np.eye(10)[3], (64, 1))
    made.update(point, x, guess)
    assert made.kappa == 1
    made.reset()
    made.follow(point, x, lambda some: 99 * guess[: len(some)])
    assert made.count == 64
    assert made.kappa < 0.2
    made.reset()
    made.follow(point, x[:8], lambda some: 99 * guess[: len(some)])
    assert made.kappa == 1
