"""The shift along directions: on made-up layers whose shift is known, and as the method ``coefficients`` on a real network."""

import numpy as np
import pytest

from isoform.runtime import Runtime
from isoform.runtime.adapt.methods.directions import DirectedShift
from isoform.runtime.errors import UsageError
from isoform.train.data.domains import transform
from isoform.train.data.formats.digits import digits

LAYERS = [slice(0, 20), slice(20, 50), slice(50, 90)]
SPREAD = 0.3


def made_up(rng: np.random.Generator, *, rest: bool = True) -> tuple[np.ndarray, DirectedShift]:
    """Eight directions of falling length in 90 channels."""
    directions = rng.normal(size=(8, 2, 90)) * np.geomspace(1, 0.03, 8)[:, None, None]
    return directions, DirectedShift(directions, np.full((2, 90), SPREAD), rest=rest)


def as_moments(r: np.ndarray) -> np.ndarray:
    """(p, q) as moments less the base's, in spreads."""
    return np.stack([r[0], np.exp(2 * r[1]) + r[0] ** 2 - 1]) / SPREAD


def passed(shift: DirectedShift, r: np.ndarray, doubt: float) -> tuple[np.ndarray, float]:
    """All layers in order: the believed shift as (p, q), and the mean share."""
    shift.begin()
    parts = [shift.shift(place, as_moments(r[:, place]), doubt) for place in LAYERS]
    believed = np.concatenate([part for part, _ in parts], axis=1) * SPREAD
    q = 0.5 * np.log(np.maximum(1 + believed[1] - believed[0] ** 2, 1e-9))
    return np.stack([believed[0], q]), float(np.mean([share for _, share in parts]))


def test_a_shift_along_the_directions_is_found() -> None:
    """From 16 samples: the leading coefficients, and a quarter of the noise at most; from many samples all of it."""
    rng = np.random.default_rng(0)
    directions, shift = made_up(rng, rest=False)
    z = np.array([0.5, -0.7, 0.4, 0, 0, 0, 0, 0])
    true = np.einsum("j,jan->an", z, directions)
    noisy = true + rng.normal(size=true.shape) * np.array([[SPREAD], [SPREAD / 2]]) / 4
    believed, share = passed(shift, noisy, 1 / 16)
    assert share > 0.9
    assert np.abs(shift.z[:3] - z[:3]).max() < 0.1
    assert ((believed - true) ** 2).mean() < 0.25 * ((noisy - true) ** 2).mean()
    believed, share = passed(shift, true, 1e-4)
    assert np.allclose(believed, true, atol=0.01)
    assert share > 0.99


def test_chance_is_not_believed() -> None:
    """As large as the doubt says, in every direction: nothing of it; half as large along the directions, neither."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        directions, shift = made_up(rng)
        noise = rng.normal(size=(2, 90)) * np.array([[SPREAD], [SPREAD / 2]]) / 4
        believed, share = passed(shift, noise, 1 / 16)
        assert share < 0.05
        assert (believed**2).sum() < 0.05 * (noise**2).sum()
    # the channels of a network are far from independent, so chance is larger along the directions: twice what it would be is no shift
    length = ((directions[0] / SPREAD / np.array([[1], [0.5]])) ** 2).sum()
    assert passed(shift, 2 * directions[0] / np.sqrt(16 * length), 1 / 16)[1] < 0.05
    assert passed(shift, 16 * directions[0] / np.sqrt(16 * length), 1 / 16)[1] > 0.5


def test_a_shift_that_no_direction_knows() -> None:
    """Nothing of it by coefficients alone; with the rest, as much as chance does not explain, if something along the directions is sure."""
    rng = np.random.default_rng(0)
    directions, alone = made_up(rng, rest=False)
    flat = directions.reshape(8, -1)
    other = rng.normal(size=180)
    other -= flat.T @ np.linalg.lstsq(flat.T, other, rcond=None)[0]
    other = 0.2 * other.reshape(2, 90)
    shift = directions[0] / 2 + other
    _, whole = made_up(np.random.default_rng(0))
    for part, kept in ((alone, 0.0), (whole, 0.8)):
        believed, _ = passed(part, shift, 0.02)
        got = ((believed - directions[0] / 2) * other).sum() / (other**2).sum()
        assert abs(got) < 0.2 if kept == 0 else got > kept


def test_numbers_stay_finite() -> None:
    """A constant channel, and a shift of a million deviations."""
    _, shift = made_up(np.random.default_rng(0))
    r = np.zeros((2, 90))
    r[1, ::7], r[0, ::5] = -30.0, 1e6
    for doubt in (1e-6, 1.0):
        believed, share = passed(shift, np.clip(r, -1e3, 1e3), doubt)
        assert np.isfinite(believed).all()
        assert 0 <= share <= 1


@pytest.fixture(scope="module")
def plain():
    """300 digits and their labels, shuffled."""
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(labels))[:600]
    return np.array(images[order]), labels[order]


def test_coefficients_alone(runtime: Runtime, plain) -> None:
    """Faded digits: most of what ``auto`` gains, by a file of less than 1 KiB that holds nothing but coefficients; plain ones: nothing."""
    x, labels = transform(plain[0], domain="low_contrast"), plain[1]
    base = runtime.signature("plain")
    right = {}
    for method in ("coefficients", "auto"):
        adapter = runtime.adapter(base, method=method)
        for start in range(0, 256, 64):
            adapter(x[start : start + 64])
        right[method] = float((runtime.predict(x[256:], adapter.signature).argmax(axis=1) == labels[256:]).mean())
        if method == "coefficients":
            assert adapter.signature.parts.keys() == {"bn.coefficients"}
            assert len(adapter.signature.encode()) < 1024
            assert adapter.last.event in ("update", "hold")
    before = float((runtime.predict(x[256:], base).argmax(axis=1) == labels[256:]).mean())
    assert right["coefficients"] - before > 0.5 * (right["auto"] - before) > 0.1
    adapter = runtime.adapter(base, method="coefficients")
    adapter(plain[0][:128])
    assert np.abs(adapter.signature.parts.get("bn.coefficients", np.zeros(1))).max() < 32


def test_coefficients_that_fit_worse_are_refused(runtime: Runtime, plain) -> None:
    """They are compared as the statistics that they stand for: those of faded digits do not fit plain ones."""
    adapter = runtime.adapter(runtime.signature("plain"), method="coefficients")
    adapter(transform(plain[0][:128], domain="low_contrast"))
    assert adapter.refusal(transform(plain[0][128:256], domain="low_contrast")) is None
    assert "statistics fit the samples worse" in str(adapter.refusal(plain[0][128:256]))


def test_a_bundle_without_directions(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so."""
    monkeypatch.setattr(type(runtime.learner), "directions", None)
    with pytest.raises(UsageError, match="no directions of BN statistics, so use auto"):
        runtime.adapter(runtime.signature("plain"), method="coefficients")
