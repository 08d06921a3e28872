"""Coefficients that are added to a layer's weights: their directions, what they do in every engine, their gradient, and their file."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from moved import engines_agree, gradients_of
from support import SMALL, make_bundle

from isoform.runtime.adapt.registry import METHODS
from isoform.runtime.arithmetic import average, distance
from isoform.runtime.errors import SignatureError, UsageError
from isoform.runtime.formats.inheritance import reduced
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import WHOLE
from isoform.runtime.kinds.mixture.directions import STEP, directions, mixing, signs_of
from isoform.runtime.kinds.mixture.discrete import discrete_logits
from isoform.runtime.kinds.mixture.fold import mix, row_shapes, template_matrix
from isoform.runtime.kinds.mixture.learn.blocks import open_blocks
from isoform.runtime.kinds.mixture.learn.normalised import normalised_pass
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.train.data.domains import transform
from isoform.train.kinds.mixture.bundling import network_from_bundle

RANDOM = SMALL.random_directions


def coefficients(spec: NetworkSpec, seed: int = 0, size: int = 30):
    """Whole numbers of a ``delta``."""
    return np.random.default_rng(seed).integers(-size, size + 1, (spec.layers, spec.templates + spec.random_directions))


def with_delta(base: Signature, delta) -> Signature:
    """A user's signature that adds to a base's weights, and inherits all else."""
    return base.replace(parts={"delta": delta}, base=base.digest, labels=None)


def test_the_signs_are_the_formats() -> None:
    """Every device makes the same ones: golden bits, and the text of docs/formats.md."""
    found = signs_of("expand.weight", 48, RANDOM)
    assert found.shape == (RANDOM, 48)
    first = np.unpackbits(np.frombuffer(hashlib.sha256(b"isoform directions 1 expand.weight 0").digest(), np.uint8))
    assert np.array_equal(found.ravel()[:256], 2 * first.astype(int) - 1)
    assert "".join("+" if sign > 0 else "-" for sign in found[0, :24]) == "++++-+-+-+--+--------+-+"
    digest = hashlib.sha256(np.packbits(found.ravel() > 0).tobytes()).hexdigest()
    assert digest.startswith("63c3152c02961daa")


def test_directions_are_as_large_as_the_templates() -> None:
    """Per tensor, and different from each other."""
    bundle = make_bundle(SMALL)
    theta = template_matrix(SMALL, bundle.tensors)
    found, start = directions(theta, row_shapes(SMALL), RANDOM), 0
    for name, shape in row_shapes(SMALL).items():
        columns = slice(start, start := start + int(np.prod(shape)))
        np.testing.assert_allclose(np.abs(found[:, columns]), np.sqrt((theta[:, columns] ** 2).mean()), rtol=1e-6)
        assert name
    alike = found @ found.T / (found**2).sum(axis=1)
    assert np.abs(alike - np.eye(RANDOM)).max() < 0.4


def test_what_is_not_added_changes_nothing() -> None:
    """Zeros are the same bits as no ``delta``, and a discrete layer stays discrete."""
    bundle = make_bundle(SMALL)
    theta, parts = template_matrix(SMALL, bundle.tensors), {"mixture": discrete_logits((0, 1, 0), 2)}
    zeros = {**parts, "delta": np.zeros((3, 2 + RANDOM), dtype=np.int64)}
    assert np.array_equal(mixing(zeros), mixing(parts))
    one, other = mix(SMALL, theta, parts), mix(SMALL, theta, zeros)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.parametrize("kind", ["soft", "discrete"])
def test_every_engine_adds_the_same(kind, compiled, samples) -> None:
    """The plan, sessions and the numpy twin, for a user of a soft and of a discrete base; other users are not moved."""

    def user(runtime):
        base = runtime.signature("plain") if kind == "discrete" else runtime.bundle.signatures["plain"]
        return base, with_delta(base, coefficients(runtime.bundle.spec))

    engines_agree(compiled, np.array(samples[0][:8]), user)


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
def test_its_gradient_is_autograds(affine) -> None:
    """Of templates and of random directions; the other parts' gradients see what is added."""
    bundle = make_bundle(dataclasses.replace(SMALL, affine=affine), seed=1)
    spec, base = bundle.spec, bundle.signatures["a"]
    parts = {**bundle.resolve(base).parts, "delta": coefficients(spec).astype(np.float64)}
    x, labels, logits, found = gradients_of(bundle, parts, own_affine=True)
    twin = network_from_bundle(bundle, {"task": base}).double()
    delta = torch.from_numpy(parts["delta"]).requires_grad_()
    rows = torch.from_numpy(directions(template_matrix(spec, bundle.tensors), row_shapes(spec), RANDOM)).double()
    padding = torch.zeros(RANDOM, twin.templates.shape[1] - rows.shape[1]).double()  # γ and β, if they are mixed
    templates, xi = twin.templates.detach(), twin.xi
    # γ and β follow ξ alone
    shared = torch.cat([templates[:, : rows.shape[1]], 0 * templates[:, rows.shape[1] :]], dim=1)
    twin.templates = torch.nn.Parameter(torch.cat([templates, shared, torch.cat([rows, padding], dim=1)]))
    twin.xi = lambda: torch.cat([xi(), STEP * delta[None]], dim=2)
    expected = twin(torch.from_numpy(x).double(), 0)
    F.cross_entropy(expected, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=1e-4, atol=1e-4)
    slope = delta.grad.numpy()
    assert np.abs(found["delta"] - slope).max() <= 1e-4 * np.abs(slope).max()
    if affine != "mixed":
        slope = twin.mixture.grad[0].numpy()
        assert np.abs(found["mixture"] - slope).max() <= 1e-4 * np.abs(slope).max()


def test_statistics_see_it(runtime, samples) -> None:
    """A pass whose BN statistics are the given ones gives the logits of the prediction."""
    bundle, x = runtime.bundle, np.array(samples[0][:8])
    user = with_delta(runtime.signature("plain"), coefficients(bundle.spec))
    blocks = open_blocks(bundle.spec, bundle.require_compiled().training(), threads=1)
    parts = bundle.resolve(user).parts
    variance = parts["bn.statistics"][1]
    found = normalised_pass(
        bundle.spec, bundle.tensors, parts, x, run_on=blocks, choose=lambda place, _: (np.zeros_like(variance[place]), variance[place])
    )  # fmt: skip
    np.testing.assert_allclose(found.logits, runtime.predict(x, user), rtol=1e-3, atol=1e-3)


def test_a_discrete_base_is_personalized_in_a_kilobyte(runtime, samples) -> None:
    """By ``delta`` alone, where ξ has no gradient: the file is small, holds nothing else, and is better on samples it has not seen."""
    x, labels = transform(np.array(samples[0]), domain="slanted"), np.array(samples[1])
    outcome = runtime.fit(x[:100], labels[:100], runtime.signature("plain"), parts=("delta",), steps=60)
    signature, spec = outcome.signature, runtime.bundle.spec
    assert outcome.improved
    assert set(signature.parts) == {"delta"}
    assert signature.parts["delta"].dtype == np.int64
    assert len(signature.encode()) <= 560 + spec.layers * (spec.templates + spec.random_directions) < 1024
    assert Signature.decode(signature.encode()) == signature
    right = [(runtime.predict(x[100:], s).argmax(1) == labels[100:]).mean() for s in (outcome.start, signature)]
    assert right[1] > right[0] + 0.05


def test_what_cannot_be_one() -> None:
    """Fractions, other shapes and numbers that are out of range are refused, each in one line."""
    bundle = make_bundle(SMALL)
    base, good = bundle.signatures["a"], coefficients(SMALL)
    for wrong, message in (
        (good * 0.5, "whole numbers"), (good[:, :-1], "expects"), (np.full_like(good, WHOLE + 1), "from -32767 to 32767"),
        (np.full_like(good, np.iinfo(np.int64).min), "from -32767 to 32767"),
    ):  # fmt: skip
        with pytest.raises(SignatureError, match=message):
            bundle.resolve(with_delta(base, wrong))


def test_arithmetic() -> None:
    """The mean is a mean, rounded; a part that is 0 is left out; the distance is a metric that sees it."""
    bundle = make_bundle(SMALL)
    base = bundle.signatures["a"]
    users = [with_delta(base, coefficients(SMALL, seed)) for seed in range(3)]
    mean = average(bundle, users[:2])
    expected = np.rint((users[0].parts["delta"] + users[1].parts["delta"]) / 2)
    assert np.array_equal(mean.parts["delta"], expected)
    assert set(average(bundle, [base, users[0]]).parts) == {"delta"}
    assert "delta" not in reduced(bundle, with_delta(base, 0 * coefficients(SMALL))).parts
    ab, bc, ac = (distance(bundle, users[i], users[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
    assert 0 < ac <= ab + bc
    assert max(ab, bc, ac) <= 1
    assert distance(bundle, users[0], users[0]) == 0
    assert distance(bundle, base, with_delta(base, coefficients(SMALL, size=1))) < distance(bundle, base, users[0])


def test_it_is_described(runtime) -> None:
    """``inspect`` says how much δ adds, of signatures that have it; the figure shows it as a change of ξ."""
    user = with_delta(runtime.signature("plain"), coefficients(runtime.bundle.spec))
    found = runtime.bundle.kind.describe(user.parts)
    assert found["delta"]["numbers"] == user.parts["delta"].size
    assert found["delta"]["largest"] == pytest.approx(STEP * np.abs(user.parts["delta"]).max(), abs=1e-4)
    bundle = runtime.bundle
    before, after = (
        bundle.kind.usage(bundle.resolve(signature).parts) for signature in (runtime.signature("plain"), user)
    )
    added = STEP * user.parts["delta"][:, : before.shape[1]]
    np.testing.assert_allclose(after, np.clip(before + added, 0, 1))
    assert "delta" not in runtime.bundle.kind.describe(runtime.signature("plain").parts)


def test_adaptation_keeps_it(runtime, samples) -> None:
    """Methods move BN, and what a user's signature adds stays; none moves ``delta`` itself yet, and who asks is told."""
    user = with_delta(runtime.signature("plain"), coefficients(runtime.bundle.spec, size=3))
    assert "auto" in METHODS
    adapter = runtime.adapter(user, method="auto")
    adapter(np.array(samples[0][:32]) * np.float32(0.3) + np.float32(0.4))
    assert np.array_equal(runtime.bundle.resolve(adapter.signature).parts["delta"], user.parts["delta"])
    with pytest.raises(UsageError, match="one or more of mixture, bn were expected"):
        runtime.adapter(user, method="tent", parts=("delta",))


def test_a_torch_network_does_not_lose_it() -> None:
    """Torch's network has no ``delta``: a signature with one is refused, and not converted without it."""
    bundle = make_bundle(SMALL)
    with pytest.raises(SignatureError, match="delta"):
        network_from_bundle(bundle, {"a": with_delta(bundle.signatures["a"], coefficients(SMALL))})
