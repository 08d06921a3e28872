"""Signature arithmetic: what averages, distances and neighbours mean."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import SMALL, make_bundle

from isoform.runtime.arithmetic import average, distance, interpolate, nearest
from isoform.runtime.errors import SignatureError, UsageError
from isoform.runtime.kinds.mixture.discrete import discrete_logits, sequence_of, xi_of

BUNDLE = make_bundle(dataclasses.replace(SMALL, affine="task", templates=3))
A, B = BUNDLE.signatures["a"], BUNDLE.signatures["b"]
LOGITS = arrays(np.float32, (SMALL.layers, 3), elements=st.floats(-20, 20, width=32))


def user(logits, base=A):
    """A user of task a whose mixture alone is their own."""
    return base.replace(parts={"mixture": logits}, base=base.digest, labels=None)


def test_an_average_of_equals_is_the_same_network(runtime, samples) -> None:
    """Also of discrete signatures, also at the ends of an interpolation: the same predictions, bit for bit."""
    x = np.array(samples[0][:8])
    mine, other = (runtime.signature(task).keep("mixture") for task in ("plain", "edges"))
    expected = runtime.predict(x, mine)
    same = average(runtime.bundle, [mine, mine, mine], weights=[1, 5, 2])
    assert np.array_equal(runtime.predict(x, same), expected)
    assert same.base == mine.base
    base = runtime.signature("plain")
    cousin = base.replace(parts={"mixture": runtime.signature("edges").parts["mixture"]}, base=base.digest, labels=None)
    for t, end in ((0.0, mine), (1.0, cousin)):
        assert np.array_equal(runtime.predict(x, interpolate(runtime.bundle, mine, cousin, t)), runtime.predict(x, end))
    assert other.task == "edges"


@given(a=LOGITS, b=LOGITS, t=st.floats(0, 1))
def test_mixtures_average_as_probabilities(a, b, t) -> None:
    """ξ of the average is the average of ξ, and an arbitrary constant in the logits changes nothing."""
    found = interpolate(BUNDLE, user(a), user(b + np.float32(3)), t)
    expected = (1 - t) * xi_of(user(a).parts) + t * xi_of(user(b).parts)
    assert np.abs(xi_of(found.parts) - expected).max() <= 1e-5
    assert set(found.parts) == {"mixture"}


def test_templates_that_nobody_uses_stay_unused() -> None:
    """Where all use one template the layer stays discrete; between two, the third gets exactly nothing."""
    first, second = (user(discrete_logits(sequence, 3)) for sequence in ([0, 1, 2], [0, 2, 2]))
    found = average(BUNDLE, [first, second])
    assert sequence_of(xi_of(found.parts)) == (0, None, 2)
    assert xi_of(found.parts)[1].tolist() == [0, 0.5, 0.5]


def test_statistics_are_of_both_users_samples() -> None:
    """Mean and variance of two sets of samples averaged are those of the sets put together."""
    rng = np.random.default_rng(0)
    sets = [rng.normal(place, spread, (100, BUNDLE.spec.bn_channels)) for place, spread in ((0, 1), (3, 2))]
    users = [
        A.replace(parts={"bn.statistics": np.stack([x.mean(0), x.var(0)])}, base=A.digest, labels=None) for x in sets
    ]
    found = average(BUNDLE, users).parts["bn.statistics"]
    together = np.concatenate(sets)
    assert np.abs(found - np.stack([together.mean(0), together.var(0)])).max() <= 1e-4


def test_the_rest_is_linear_and_complete_where_bases_differ() -> None:
    """Signatures of two bases: all parts but a delta of 0, each number between theirs in the given proportion."""
    found = average(BUNDLE, [A, B], weights=[3, 1])
    assert found.base is None
    first, second = BUNDLE.resolve(A).parts, BUNDLE.resolve(B).parts
    assert set(found.parts) == set(first) - {"delta"}
    for name in ("bn.affine", "logits.weight", "logits.bias"):
        assert np.abs(found.parts[name] - (0.75 * first[name] + 0.25 * second[name])).max() <= 1e-6
    BUNDLE.resolve(found)


def test_classes_are_matched_by_name() -> None:
    """The same classes in another order are put in order; other classes have no average."""
    parts = dict(B.parts)
    turned = B.replace(
        parts={**parts, "logits.weight": parts["logits.weight"][::-1], "logits.bias": parts["logits.bias"][::-1]},
        labels=tuple(reversed(B.labels)),
    )
    straight, found = (average(BUNDLE, [A, other]) for other in (B, turned))
    assert found.labels == A.labels
    assert np.array_equal(found.parts["logits.weight"], straight.parts["logits.weight"])
    with pytest.raises(SignatureError, match="the signatures have different classes, c0, c1, c2 and x, y, z"):
        average(BUNDLE, [A, B.replace(labels=("x", "y", "z"))])


@given(a=LOGITS, b=LOGITS, c=LOGITS)
def test_distance_is_a_metric(a, b, c) -> None:
    """0 to itself, symmetric, at most 1, and no shorter way around."""
    a, b, c = map(user, (a, b, c))
    assert distance(BUNDLE, a, a) == 0
    assert distance(BUNDLE, a, b) == distance(BUNDLE, b, a)
    assert 0 <= distance(BUNDLE, a, b) <= 1 + 1e-12
    assert distance(BUNDLE, a, c) <= distance(BUNDLE, a, b) + distance(BUNDLE, b, c) + 1e-12


def test_what_a_distance_says() -> None:
    """One layer in three with another template is a third; half the way there is half of it."""
    first, second = (user(discrete_logits(sequence, 3)) for sequence in ([0, 1, 2], [0, 1, 1]))
    assert distance(BUNDLE, first, second) == pytest.approx(1 / 3)
    assert distance(BUNDLE, first, interpolate(BUNDLE, first, second, 0.5)) == pytest.approx(1 / 6)


def test_neighbours_in_order() -> None:
    """The nearest first, equal ones as given, as many as asked for."""
    me, near, far = (user(discrete_logits(sequence, 3)) for sequence in ([0, 0, 0], [0, 0, 1], [1, 1, 1]))
    found = nearest(BUNDLE, me, {"far": far, "near": near, "twin": near}, count=2)
    assert found == [("near", pytest.approx(1 / 3)), ("twin", pytest.approx(1 / 3))]
    assert nearest(BUNDLE, me, {}) == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: average(BUNDLE, []), UsageError, "there are no signatures to average"),
        (lambda: average(BUNDLE, [A, B], weights=[1]), UsageError, "but 2 numbers from 0"),
        (lambda: average(BUNDLE, [A, B], weights=[1, -1]), UsageError, "but 2 numbers from 0"),
        (lambda: average(BUNDLE, [A, B], weights=[0, 0]), UsageError, "not all 0"),
        (lambda: average(BUNDLE, [A, B], weights=[1, float("nan")]), UsageError, "but 2 numbers"),
        (lambda: average(BUNDLE, [A, B], weights=[1e308, 1e308]), UsageError, "but 2 numbers"),
        (lambda: interpolate(BUNDLE, A, B, 1.5), UsageError, "t is 1.5"),
        (lambda: interpolate(BUNDLE, A, B, float("nan")), UsageError, "t is nan"),
        (lambda: nearest(BUNDLE, A, {"b": B}, count=0), UsageError, "count is 0"),
        (lambda: distance(make_bundle(SMALL, seed=5), A, B), SignatureError, "was trained on templates"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, message) -> None:
    """No signatures, weights without meaning, strangers."""
    with pytest.raises(error, match=message):
        call()
