"""Random changes of samples, and the directions that they move BN's statistics along."""

import numpy as np
import pytest
import torch
from support import SMALL

from isoform.train.data.changes import changed
from isoform.train.kinds.mixture.directions import find_directions
from isoform.train.kinds.mixture.network import IsometricNetwork
from isoform.train.recipe import read_recipe


@pytest.mark.parametrize("shape", [(3, 1, 16, 16), (5, 3, 8, 12), (4, 9, 1, 32)])
def test_changes_are_of_every_kind(shape) -> None:
    """Finite, of the same shape, deterministic, and different; a sample's neighbours do not matter; a single row stays one."""
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    mean, std = np.full(shape[1], 0.5), np.full(shape[1], 0.3)
    found = [changed(x, mean=mean, std=std, rng=np.random.default_rng(seed)) for seed in range(30)]
    assert all(y.shape == x.shape and y.dtype == np.float32 and np.isfinite(y).all() for y in found)
    again = changed(x, mean=mean, std=std, rng=np.random.default_rng(7))
    assert np.array_equal(again, found[7])
    different = sum(not np.allclose(y, x, atol=1e-3) for y in found)
    assert different >= 25
    plain = [seed for seed in range(30) if np.random.default_rng(seed).uniform(size=5)[3] >= 0.3]  # without noise
    for seed in plain[:5]:
        one = changed(x[:1], mean=mean, std=std, rng=np.random.default_rng(seed))
        np.testing.assert_allclose(one, found[seed][:1], atol=1e-5)


def test_directions_hold_what_changes_do() -> None:
    """The leading ones explain a new change far better than as many random ones; statistics are as they were."""
    import dataclasses

    spec = dataclasses.replace(SMALL, bn_directions=6)
    network = IsometricNetwork(spec, (3, 3), generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    samples = [np.cumsum(rng.normal(size=(40, 1, 8, 8)), axis=3).astype(np.float32) for _ in range(2)]
    with torch.no_grad():
        for task, x in enumerate(samples):
            network(torch.from_numpy(x), task, momentum=1.0)
    before = network.bn_statistics.clone()
    found = find_directions(network, samples, count=6, seed=0)
    assert torch.equal(network.bn_statistics, before)
    assert np.array_equal(find_directions(network, samples, count=6, seed=0), found)
    sizes = np.sqrt((found**2).sum(axis=(1, 2)))
    assert (np.diff(sizes) <= 0).all()
    other = changed(samples[0], mean=np.zeros(1), std=np.ones(1), rng=np.random.default_rng(99))
    with torch.no_grad():
        network(torch.from_numpy(other), 0, momentum=1.0)
    (m0, v0), (m1, v1) = before[0].double().numpy(), network.bn_statistics[0].double().numpy()
    s0, s1 = np.sqrt(v0 + spec.bn_eps), np.sqrt(v1 + spec.bn_eps)
    target = np.concatenate([(m1 - m0) / s0, np.log(s1 / s0)])

    def left(rows) -> float:
        fit = np.linalg.lstsq(rows.T, target, rcond=None)[0]
        return float(((target - fit @ rows) ** 2).sum() / (target**2).sum())

    assert left(found.reshape(6, -1)) < 0.3
    assert left(rng.normal(size=(6, len(target)))) > 0.7


def test_fewer_changes_than_directions() -> None:
    """The rest are zeros, which no coefficient moves anything along."""
    import dataclasses

    spec = dataclasses.replace(SMALL, bn_directions=256)
    network = IsometricNetwork(spec, (3,), generator=torch.Generator().manual_seed(0))
    x = np.random.default_rng(0).normal(size=(8, 1, 8, 8)).astype(np.float32)
    found = find_directions(network, [x], count=256, seed=0)
    assert found[:100].any(axis=(1, 2)).all()
    assert not found[200:].any()


def test_how_many_random_directions(tmp_path) -> None:
    """As many as ``delta_numbers`` allow, which keeps a signature below 1 KiB for any number of layers and templates up to 16."""
    for layers, templates in ((8, 4), (8, 16), (16, 4), (16, 16), (2, 4)):
        table = read_recipe("digits", {"network.layers": str(layers), "network.templates": str(templates)}).network
        spec = table.spec((1, 32, 32), mean=(0.0,), std=(1.0,))
        assert 8 <= spec.random_directions <= 64
        assert layers * (templates + spec.random_directions) <= 512
        assert spec.bn_directions == 32
    large = read_recipe("digits", {"network.channels": "256", "network.expansion": "6"}).network
    spec = large.spec((1, 32, 32), mean=(0.0,), std=(1.0,))
    assert 4 * spec.random_directions * spec.block_size <= 64 << 20
