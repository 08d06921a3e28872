"""The pieces of a fit: Adam, batches, folds, moves, softening, new logits layers, the loss."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf

from isoform.runtime.arrays import softmax
from isoform.runtime.kinds.mixture.discrete import discrete_logits
from isoform.runtime.kinds.mixture.learn.soft import SOFT, softened
from isoform.runtime.learn.fits.adam import Adam
from isoform.runtime.learn.fits.folds import stratified_folds
from isoform.runtime.learn.head import discriminant, shrunk
from isoform.runtime.learn.loss import cross_entropy
from isoform.runtime.learn.samples import balanced_batches, class_shares, moved


def test_adam_is_torchs() -> None:
    """Ten steps with two learning rates, and a schedule's factor: torch's numbers; what has no rate stays."""
    rng = np.random.default_rng(0)
    parts = {name: rng.normal(size=(3, 2)) for name in ("a", "b", "c")}
    tensors = {name: torch.from_numpy(parts[name].copy()).requires_grad_() for name in ("a", "b")}
    optimizer = torch.optim.Adam([{"params": [tensors["a"]], "lr": 0.1}, {"params": [tensors["b"]], "lr": 0.001}])
    ours, start = Adam({"a": 0.2, "b": 0.002}), parts["c"]
    for _ in range(10):
        gradients = {name: rng.normal(size=(3, 2)) for name in ("a", "b")}
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(gradients[name])
        optimizer.step()
        parts = ours.step(parts, gradients, scale=0.5)
    for name, tensor in tensors.items():
        assert np.abs(parts[name] - tensor.detach().numpy()).max() <= 1e-12
    assert parts["c"] is start


def test_loss_and_gradient_are_torchs() -> None:
    """Weighted by sample, and where logits are large."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 30, (6, 4)).astype(np.float32), rng.integers(0, 4, 6)
    weights = rng.dirichlet(np.ones(6))
    tensor = torch.from_numpy(logits).double().requires_grad_()
    each = torch.nn.functional.cross_entropy(tensor, torch.from_numpy(labels), reduction="none")
    loss = (each * torch.from_numpy(weights)).sum()
    loss.backward()
    found, gradient = cross_entropy(logits, labels, weights=weights)
    assert found == pytest.approx(loss.item(), rel=1e-9)
    assert np.abs(gradient - tensor.grad.numpy()).max() <= 1e-7
    assert cross_entropy(logits, labels)[0] == pytest.approx(each.mean().item(), rel=1e-9)


def test_batches_are_balanced_and_waste_nothing() -> None:
    """Classes of 1, 5 and 50 samples come equally often; every sample of a class before any of it comes again."""
    labels = np.repeat([0, 1, 2], [1, 5, 50])
    batches = balanced_batches(labels, 6, np.random.default_rng(0))
    rows = np.concatenate([next(batches) for _ in range(25)])
    assert np.bincount(labels[rows]).tolist() == [50, 50, 50]
    assert np.bincount(rows)[6:].tolist() == [1] * 50
    assert np.bincount(rows)[1:6].tolist() == [10] * 5
    again = balanced_batches(labels, 6, np.random.default_rng(0))
    assert np.array_equal(rows, np.concatenate([next(again) for _ in range(25)]))


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=5), count=st.integers(1, 4))
def test_folds_are_a_partition(counts, count) -> None:
    """Disjoint, complete, and of sizes that differ by one at most."""
    labels = np.repeat(np.arange(len(counts)), counts)
    found = stratified_folds(labels, count, np.random.default_rng(0))
    assert sorted(np.concatenate(found)) == list(range(len(labels)))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_shares_count_classes_alike() -> None:
    """However many samples a class has, together they weigh the same."""
    labels = np.array([3, 3, 3, 7])
    assert class_shares(labels).tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_samples_move_by_a_pixel() -> None:
    """Each of 32 rows and columns by at most one, edges repeated, each sample on its own; small ones stay; height 1 moves in time."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2, 32, 32)).astype(np.float32)
    found = moved(x, rng)
    assert found.shape == x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    seen = set()
    for index in range(40):
        places = [
            (i, j)
            for i in range(3)
            for j in range(3)
            if np.array_equal(found[index], padded[index, :, i : i + 32, j : j + 32])
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 9
    small = x[:, :, :16, :16]
    assert moved(small, rng) is small
    sensor = x[:, :, :1]
    assert moved(sensor, rng).shape == sensor.shape


def test_softened_layers_can_move() -> None:
    """A one-hot layer keeps its template, at 0.97; a soft one keeps its ξ; one template alone stays."""
    found = softmax(softened(discrete_logits([2, 0], 4)))
    assert found.argmax(axis=1).tolist() == [2, 0]
    assert found.max(axis=1) == pytest.approx([SOFT, SOFT])
    soft = np.array([[0.1, 0.5, -0.3]], dtype=np.float32)
    assert np.allclose(softmax(softened(soft)), softmax(soft), atol=1e-12)
    assert softened(np.zeros((2, 1), dtype=np.float32)).shape == (2, 1)


def test_a_new_logits_layer_is_the_linear_discriminant() -> None:
    """It decides as scikit-learn's with the same shrinking does, which is Ledoit and Wolf's."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    shape = rng.normal(size=(12, 12))
    e = (rng.normal(size=(3, 12))[labels] + 0.5 * rng.normal(size=(60, 12)) @ shape).astype(np.float32)
    means = np.stack([e[labels == label].mean(axis=0) for label in range(3)])
    within = (e - means[labels]).astype(np.float64)
    covariance, share = shrunk(within)
    assert 0.01 < share < 0.9
    assert share == pytest.approx(ledoit_wolf(within, assume_centered=True)[1], rel=1e-9)
    assert np.allclose(covariance, np.cov(within.T, bias=True))
    weight, bias = discriminant(e, labels, 3)
    inverse = np.linalg.inv((1 - share) * covariance + share * np.trace(covariance) / 12 * np.eye(12)) * 57 / 60
    x = rng.normal(size=(50, 12))
    distance = [((x - mean) @ inverse * (x - mean)).sum(axis=1) for mean in means.astype(np.float64)]
    logits = x @ weight.T + bias
    assert np.allclose(logits - logits[:, :1], -(np.stack(distance, axis=1) - distance[0][:, None]) / 2)


def test_a_new_logits_layer_of_one_sample_each_is_the_nearest_mean() -> None:
    """Without any variance within classes; and finite if all samples are alike."""
    rng = np.random.default_rng(0)
    e, x = rng.normal(size=(3, 5)), rng.normal(size=(50, 5))
    weight, bias = discriminant(e, np.arange(3), 3)
    nearest = ((x[:, None] - e) ** 2).sum(axis=2).argmin(axis=1)
    assert np.array_equal((x @ weight.T + bias).argmax(axis=1), nearest)
    for labels in (np.arange(3), np.repeat(np.arange(3), 4)):
        parts = discriminant(np.zeros((len(labels), 5)), labels, 3)
        assert np.isfinite(np.concatenate([part.ravel() for part in parts])).all()
