"""Coefficients of BN's statistics: what they do in every engine, their gradient, their estimate from samples, and their file."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from moved import engines_agree, gradients_of
from support import SMALL, make_bundle

from isoform.compile.kinds.mixture.training import training_graphs
from isoform.runtime.arithmetic import average
from isoform.runtime.errors import BundleError, SignatureError, SpecError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.inheritance import reduced
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import WHOLE
from isoform.runtime.kinds.mixture.directions import STEP
from isoform.runtime.kinds.mixture.fold import fold
from isoform.runtime.kinds.mixture.learn.blocks import open_blocks
from isoform.runtime.kinds.mixture.learn.learner import MixtureLearner
from isoform.runtime.kinds.mixture.learn.network import FoldedNetwork
from isoform.runtime.kinds.mixture.normalisation import bn_directions, moved_by, nearest, own_statistics, packed
from isoform.runtime.kinds.mixture.reference import reference_logits
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.train.data.domains import transform
from isoform.train.kinds.mixture.bundling import network_from_bundle

PART = "bn.coefficients"
DIRECTED = dataclasses.replace(SMALL, bn_directions=5)


def with_coefficients(base: Signature, coefficients) -> Signature:
    """A user's signature that moves a base's statistics, and inherits all else."""
    return base.replace(parts={PART: coefficients}, base=base.digest, labels=None)


def drawn(count: int, seed: int = 0, size: int = 60):
    """Whole numbers of a part."""
    return np.random.default_rng(seed).integers(-size, size + 1, count)


def test_directions_survive_a_byte_each() -> None:
    """To half a step of their largest number, each with its own scale."""
    rng = np.random.default_rng(0)
    directions = (rng.normal(size=(4, 2, 30)) * np.array([1e-3, 1, 10, 0])[:, None, None]).astype(np.float32)
    found = packed(directions)
    assert found["bn.directions"].dtype == np.int8
    step = np.abs(directions).max(axis=(1, 2)) / 127
    gap = np.abs(bn_directions(found) - directions).max(axis=(1, 2))
    assert (gap <= step / 2 * (1 + 1e-5) + 1e-12).all()


def test_a_bundle_keeps_them(tmp_path) -> None:
    """Written and read; a bundle without directions is described, and named by its digest, as before there were any."""
    bundle = make_bundle(DIRECTED)
    bundle.write(tmp_path / "bundle")
    again = Bundle.load(tmp_path / "bundle")
    assert again.spec == DIRECTED
    assert again.digest == bundle.digest
    assert np.array_equal(again.tensors["bn.directions"], bundle.tensors["bn.directions"])
    assert "bn_directions" not in SMALL.to_json()
    assert NetworkSpec.from_json(SMALL.to_json()) == SMALL
    wrong = {**bundle.tensors, "bn.directions": bundle.tensors["bn.directions"].astype(np.float32)}
    with pytest.raises(BundleError, match=r"bn\.directions as float32 .* int8"):
        Bundle.create(spec=DIRECTED, tensors=wrong, signatures=bundle.signatures, training={})
    for size in (-1, 257, True, 1.0):
        with pytest.raises(SpecError, match="bn_directions"):
            dataclasses.replace(SMALL, bn_directions=size)
    with pytest.raises(SpecError, match="random directions would have"):
        dataclasses.replace(SMALL, channels=512, random_directions=1024)


def test_zeros_change_nothing() -> None:
    """The same bits as without the part."""
    bundle = make_bundle(DIRECTED)
    base = bundle.signatures["a"]
    parts = [bundle.resolve(s).parts for s in (base, with_coefficients(base, np.zeros(5, dtype=np.int64)))]
    one, other = (fold(DIRECTED, bundle.tensors, part) for part in parts)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_they_are_statistics() -> None:
    """A signature whose own statistics are the moved ones has the same weights; those are p and q times deviations, as documented."""
    bundle = make_bundle(DIRECTED)
    base, z = bundle.signatures["a"], drawn(5)
    parts = bundle.resolve(with_coefficients(base, z)).parts
    p, q = np.tensordot(STEP * z, bn_directions(bundle.tensors).astype(np.float64), axes=1)
    mean, variance = parts["bn.statistics"].astype(np.float64)
    deviation = np.sqrt(variance + DIRECTED.bn_eps)
    settled = {**parts, "bn.statistics": own_statistics(DIRECTED, bundle.tensors, parts), PART: np.zeros_like(z)}
    np.testing.assert_allclose(settled["bn.statistics"][0], mean + deviation * p, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        settled["bn.statistics"][1] + DIRECTED.bn_eps, (deviation * np.exp(q)) ** 2, rtol=1e-5, atol=1e-5
    )
    one, other = (fold(DIRECTED, bundle.tensors, each) for each in (parts, settled))
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, rtol=1e-4, atol=1e-4 * np.abs(array).max())


def test_the_largest_numbers_are_harmless() -> None:
    """No file can make a deviation 0 or infinite."""
    bundle = make_bundle(DIRECTED)
    for sign in (1, -1):
        found = moved_by(bundle.tensors, np.full(5, sign * WHOLE))
        assert np.abs(found[1]).max() <= 12
        user = with_coefficients(bundle.signatures["a"], np.full(5, sign * WHOLE))
        weights = fold(DIRECTED, bundle.tensors, bundle.resolve(user).parts)
        assert all(np.isfinite(array).all() for array in weights.values())


def test_the_twin_cuts_off_as_well() -> None:
    """In the last BN layer alone, so that logits stay within float32: 160,000 times as large, and the same as the device's."""
    directions = np.zeros((5, 2, DIRECTED.bn_channels), dtype=np.float32)
    directions[0, 1, DIRECTED.bn_slices["output_adapter"]] = 0.3
    bundle = make_bundle(DIRECTED)
    tensors = {**bundle.tensors, **packed(directions)}
    z = np.array([-WHOLE, 0, 0, 0, 0])
    parts = {**bundle.resolve(bundle.signatures["a"]).parts, PART: z}
    network = FoldedNetwork(DIRECTED, open_blocks(DIRECTED, training_graphs(DIRECTED), threads=1))
    x = np.random.default_rng(0).uniform(0, 1, (2, *DIRECTED.input_shape)).astype(np.float32)
    twin = reference_logits(DIRECTED, tensors, parts, x)
    assert np.abs(twin).max() > 1e3
    found = network.forward(fold(DIRECTED, tensors, parts), x)[0]
    np.testing.assert_allclose(found, twin, rtol=1e-3, atol=1e-3 * np.abs(twin).max())


def test_every_engine_moves_alike(compiled, samples) -> None:
    """The plan, sessions and the numpy twin; other users are not moved."""

    def user(runtime):
        base = runtime.signature("plain")
        return base, with_coefficients(base, drawn(runtime.bundle.spec.bn_directions))

    engines_agree(compiled, np.array(samples[0][:8]), user)


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
def test_their_gradient_is_autograds(affine) -> None:
    """Through moved statistics; and the gradients of γ and β see them."""
    bundle = make_bundle(dataclasses.replace(DIRECTED, affine=affine), seed=1)
    spec, base = bundle.spec, bundle.signatures["a"]
    parts = {**bundle.resolve(base).parts, PART: drawn(5).astype(np.float64)}
    x, labels, logits, found = gradients_of(bundle, parts, own_affine=affine != "mixed")
    twin = network_from_bundle(bundle, {"task": base}).double()
    z = torch.from_numpy(parts[PART]).requires_grad_()
    mean, variance = twin.bn_statistics[0].double()
    p, q = torch.tensordot(STEP * z, twin.bn_directions.double(), dims=1)
    deviation = torch.sqrt(variance + spec.bn_eps)
    # batch_norm does not differentiate its statistics: γ and β to the same effect
    affines = torch.from_numpy(parts["bn.affine"].astype(np.float64))
    own = affines.clone().requires_grad_()
    scaled = own[0] * torch.exp(-q)
    moved = torch.stack([scaled, own[1] - scaled * p])
    expected = _run(twin, torch.from_numpy(x).double(), moved, mean, deviation)
    F.cross_entropy(expected, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=1e-4, atol=1e-4)
    for name, slope in ((PART, z.grad.numpy()), ("bn.affine", own.grad.numpy())):
        assert np.abs(found[name] - slope).max() <= 1e-4 * np.abs(slope).max(), name


def _run(twin, x, affine, mean, deviation):
    """The twin's forward pass with γ and β that autograd sees; its statistics are constants."""
    import unittest.mock

    twin.bn_statistics = torch.stack([mean, deviation**2 - twin.spec.bn_eps])[None]
    places = iter(twin.spec.bn_slices.values())
    plain = F.batch_norm

    def own(z, m, v, *_, eps, **__):
        place = next(places)
        return plain(z, m, v, affine[0, place], affine[1, place], training=False, eps=eps)

    with unittest.mock.patch.object(F, "batch_norm", own):
        return twin(x, 0)


def test_statistics_are_estimated_back() -> None:
    """Those of many samples exactly, of few less; none from no shift."""
    bundle = make_bundle(DIRECTED)
    base, z = bundle.signatures["a"], drawn(5)
    parts = bundle.resolve(with_coefficients(base, z)).parts
    given, found = parts["bn.statistics"], own_statistics(DIRECTED, bundle.tensors, parts)
    many = nearest(DIRECTED, bundle.tensors, given, found, samples=10**6)
    np.testing.assert_allclose(many, z, atol=0.5)
    one = nearest(DIRECTED, bundle.tensors, given, found, samples=1)
    assert np.linalg.norm(one) < np.linalg.norm(many)
    assert np.abs(nearest(DIRECTED, bundle.tensors, given, given, samples=100)).max() < 1e-3


def test_a_faded_camera_is_a_few_numbers(runtime, samples) -> None:
    """Trained directions hold what contrast does: by coefficients alone, in a small file, better on samples it has not seen."""
    x, labels = transform(np.array(samples[0]), domain="low_contrast"), np.array(samples[1])
    outcome = runtime.fit(x[:100], labels[:100], runtime.signature("plain"), parts=("coefficients",), steps=150)
    signature = outcome.signature
    assert outcome.improved
    assert set(signature.parts) == {PART}
    assert len(signature.encode()) < 700
    assert Signature.decode(signature.encode()) == signature
    right = [(runtime.predict(x[100:], s).argmax(1) == labels[100:]).mean() for s in (outcome.start, signature)]
    assert right[1] > right[0] + 0.1


def test_what_replaces_statistics_settles_them(runtime, samples) -> None:
    """A signature with coefficients goes on to BN of its own: predictions start where they were, and the coefficients are gone."""
    x, labels = transform(np.array(samples[0]), domain="low_contrast"), np.array(samples[1])
    user = with_coefficients(runtime.signature("plain"), drawn(runtime.bundle.spec.bn_directions, size=20))
    settled = runtime.learner.settled(user)
    assert settled != user
    assert PART not in reduced(runtime.bundle, settled).parts
    np.testing.assert_allclose(runtime.predict(x[:8], settled), runtime.predict(x[:8], user), rtol=1e-3, atol=1e-3)
    assert runtime.learner.settled(settled) is settled
    outcome = runtime.fit(x[:100], labels[:100], user, parts=("bn", "head"), steps=60)
    assert outcome.improved
    assert outcome.statistics
    assert not runtime.bundle.resolve(outcome.signature).parts[PART].any()
    adapter = runtime.adapter(user, method="auto")
    np.testing.assert_allclose(adapter(x[:1]).shape, (1, 10))
    adapter(x[:64])
    assert not runtime.bundle.resolve(adapter.signature).parts[PART].any()


def test_what_cannot_be_one() -> None:
    """Fractions, other sizes, numbers out of range; and a bundle that has no directions says so."""
    bundle = make_bundle(DIRECTED)
    base, good = bundle.signatures["a"], drawn(5)
    for wrong, message in (
        (good * 0.5, "whole numbers"), (good[:-1], "expects"), (np.full_like(good, WHOLE + 1), "from -32767 to 32767"),
    ):  # fmt: skip
        with pytest.raises(SignatureError, match=message):
            bundle.resolve(with_coefficients(base, wrong))
    plain = make_bundle(SMALL)
    with pytest.raises(SignatureError, match=PART):
        plain.resolve(with_coefficients(plain.signatures["a"], good))


def test_arithmetic() -> None:
    """The mean is a mean, rounded; a torch network, which has none, refuses them; they are described."""
    bundle = make_bundle(DIRECTED)
    users = [with_coefficients(bundle.signatures["a"], drawn(5, seed)) for seed in range(2)]
    expected = np.rint((users[0].parts[PART] + users[1].parts[PART]) / 2)
    assert np.array_equal(average(bundle, users).parts[PART], expected)
    with pytest.raises(SignatureError, match=PART):
        network_from_bundle(bundle, {"a": users[0]})
    z = STEP * users[0].parts[PART]
    expected = {
        "numbers": 5,
        "rms": pytest.approx(np.sqrt((z**2).mean()), abs=1e-4),
        "largest": pytest.approx(abs(z).max(), abs=1e-4),
    }
    assert bundle.kind.describe(users[0].parts) == {PART: expected}


def test_a_bundle_without_directions_says_so(samples) -> None:
    """Who asks for coefficients there is told what to do; the default does without."""
    from isoform.runtime.learn.personalize import personalize

    class Bare:
        bundle = make_bundle(SMALL)

    with pytest.raises(UsageError, match="train it again"):
        personalize(Bare(), samples[0], samples[1], starts=(), parts=("coefficients",))
    bundle, rng = make_bundle(SMALL), np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 6)
    x = (rng.uniform(0, 1, (18, *SMALL.input_shape)) + labels[:, None, None, None]).astype(np.float32)
    learner = MixtureLearner(bundle, training_graphs(SMALL), threads=1)
    outcome = personalize(learner, x, labels, starts=[bundle.signatures["a"]], steps=200)
    assert outcome.improved
    assert "delta" in outcome.signature.parts
    assert PART not in outcome.signature.parts
