"""Each method does what its formula says: computed a second time, by hand, beside what it did on a real network."""

import dataclasses
import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from isoform.runtime.adapt.losses import information_loss
from isoform.runtime.adapt.method import Context
from isoform.runtime.adapt.methods.eata import Eata
from isoform.runtime.adapt.methods.heads import Lame, T3a
from isoform.runtime.adapt.methods.roid import Roid
from isoform.runtime.adapt.methods.rotta import Rotta
from isoform.runtime.adapt.methods.search import CmaEs, Spsa
from isoform.runtime.adapt.methods.statistics import Alpha, Batch, Ema
from isoform.runtime.adapt.methods.tent import Tent
from isoform.runtime.arrays import softmax
from isoform.runtime.learn.source import Source
from isoform.train.data.domains import transform
from isoform.train.data.formats.digits import digits

LOG_10 = math.log(10)


@pytest.fixture(scope="module")
def faded():
    """256 faded digits and their labels, shuffled."""
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(labels))[:256]
    return transform(np.array(images[order]), domain="low_contrast"), labels[order]


@pytest.fixture
def context(runtime):
    """Of task plain, with a learner that notes what it is asked to learn from."""
    bundle, learner, asked = runtime.bundle, runtime.learner, SimpleNamespace(rows=[], losses=[], seen=[])

    def gradient(point, x, loss, *, moving):
        asked.rows.append(x)
        asked.losses.append(loss)
        return learner.gradient(point, x, loss, moving=moving)

    def statistics(point, x, *, alpha=1.0):
        asked.seen.append(x)
        return learner.statistics(point, x, alpha=alpha)

    noting = SimpleNamespace(
        gradient=gradient,
        statistics=statistics,
        logits=learner.logits,
        embeddings=learner.embeddings,
        asked=asked,
        bundle=bundle,
        rates=learner.rates,
        normalises=lambda task: True,
        softened=learner.softened,
    )
    name = "source/plain.safetensors"
    base = runtime.signature("plain")
    return Context(
        learner=noting, source=Source.decode(bundle.require_compiled().read(name), parts=bundle.resolve(base).parts, name=name),
        start=runtime.learner.point(base), classes=10, seed=0,
        predict=lambda x: runtime.predict(x, base), score=learner.logits,
    )  # fmt: skip


def certain(labels, *, height=12.0):
    """Logits that are sure of these labels."""
    return (height * np.eye(10)[labels]).astype(np.float32)


def test_statistics_blend(context, faded) -> None:
    """alpha: so much of the batch's, anew every time; ema: of what it was. Compared where no BN comes before."""
    x, start, first = faded[0][:64], context.start.parts["bn.statistics"], slice(0, 8)
    whole = Batch(context)
    whole.observe(x)
    mean = whole.point.parts["bn.statistics"][0, first] - start[0, first]
    assert np.abs(mean).max() > 0.1
    for method, shares in ((Alpha(context, alpha=0.3), (0.3, 0.3)), (Ema(context, alpha=0.3), (0.3, 1 - 0.7**2))):
        for share in shares:
            method.observe(x)
            found = method.point.parts["bn.statistics"][0, first] - start[0, first]
            assert np.allclose(found, share * mean, atol=1e-5)


@pytest.mark.parametrize(("part", "lr", "share"), [("bn", 3e-3, 0.8), ("mixture", 1e-2, 0.97)])
def test_tent_makes_predictions_certain(part, lr, share, context, faded) -> None:
    """The same batch again and again: its entropy falls."""
    x, method, found = faded[0][:16], Tent(context, parts=(part,), lr=lr), []
    for _ in range(20):
        method.observe(x)
        logits = context.learner.logits(method.point, x)
        p = softmax(logits)
        found.append(float(-(p * np.log(p)).sum(axis=1).mean()))
        method.learn(x, logits)
    assert found[-1] < share * found[0]


def test_eata_learns_from_what_is_reliable_and_new(context, faded) -> None:
    """Certain samples teach, unlike what has taught before; each weighs exp(E₀ - H)."""
    x, method, asked = faded[0][:12], Eata(context), context.learner.asked
    logits = certain([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    logits[3:6] = 0  # a guess: entropy ln 10, over 0.4 ln 10
    method.learn(x, logits)
    assert np.array_equal(asked.rows[0], x[[0, 1, 2, 6, 7, 8, 9, 10, 11]])
    method.learn(
        x, np.concatenate([certain([0, 2, 3]), certain([5] * 9)])
    )  # cos of a taught class with p̄ is 0.58, of 5 it is 0
    assert np.array_equal(asked.rows[1], x[3:])
    method.learn(x, np.zeros((12, 10), dtype=np.float32))
    assert len(asked.rows) == 2
    z = np.random.default_rng(0).normal(size=(4, 10))
    entropy = -(softmax(z) * np.log(softmax(z))).sum(axis=1)
    loss, _ = asked.losses[0](z)
    assert loss == pytest.approx(float((np.exp(0.4 * LOG_10 - entropy) * entropy).mean()))


def test_eata_holds_what_the_base_needed(context, faded) -> None:
    """A large Fisher information keeps the numbers where they were."""
    moved = {}
    for scale in (0.0, 1e9):
        fisher = {name: np.ones_like(array) * scale for name, array in context.source.fisher.items()}
        method = Eata(dataclasses.replace(context, source=dataclasses.replace(context.source, fisher=fisher)), lr=1e-2)
        for start in range(0, 256, 32):
            x = faded[0][start : start + 32]
            method.observe(x)
            method.learn(x, context.learner.logits(method.point, x))
        moved[scale] = np.abs(method.point.parts["bn.affine"] - context.start.parts["bn.affine"]).mean()
    assert 0 < moved[1e9] < 0.7 * moved[0.0]


def test_roid_weights_and_leans_back(context, faded) -> None:
    """Samples of a class that was found often do not teach; every step goes back by a hundredth."""
    x, asked = faded[0][:10], context.learner.asked
    method = Roid(context, lr=1e-9)
    away = context.start.parts["bn.affine"] + 0.5
    method.reset(context.start.with_parts({"bn.affine": away}))
    method.learn(x, certain([0] * 10))
    assert np.allclose(method.point.parts["bn.affine"], away - 0.01 * 0.5, atol=1e-5)
    z = certain([0] * 9 + [7], height=6.0)
    for _ in range(40):
        _, slope = asked.losses[0](z)  # p̄ becomes mostly class 0
    assert np.abs(slope[:9]).max() == 0
    assert np.abs(slope[9]).max() > 0


def test_roid_corrects_by_the_prior(context, faded) -> None:
    """Answers lean to the classes of their batch, smoothed; one sample alone is left as it is."""
    logits = np.zeros((20, 10), dtype=np.float32)
    logits[:, 3] = 2.0
    p = np.exp([2.0] + [0.0] * 9) / (math.exp(2) + 9)
    smooth = 0.1 / p[0]
    expected = (p[0] * (p[0] + smooth)) / (p[0] * (p[0] + smooth) + 9 * p[1] * (p[1] + smooth))
    found = softmax(Roid(context).outputs(faded[0][:20], logits))
    assert np.allclose(found[:, 3], expected)
    assert expected > p[0]
    assert np.array_equal(Roid(context).outputs(faded[0][:1], logits[:1]), logits[:1])


def test_t3a_keeps_the_surest_of_each_class(context, faded) -> None:
    """The new row of a class is the mean of its supports' unit vectors, scaled as the old rows are."""
    x, method = faded[0], T3a(context, supports=3)
    for start in (0, 128):
        method.observe(x[start : start + 128])
    weight = context.start.parts["logits.weight"].astype(np.float64)
    embeddings = context.learner.embeddings(context.start, x).astype(np.float64)
    logits = embeddings @ weight.T + context.start.parts["logits.bias"]
    for label in range(10):
        own = weight[label] / np.linalg.norm(weight[label])
        supports = [(_entropy(weight @ own), own)]
        for vector, z in zip(embeddings, logits, strict=True):
            if z.argmax() == label:
                supports.append((_entropy(z), vector / np.linalg.norm(vector)))
        centre = np.mean([vector for _, vector in sorted(supports, key=lambda pair: pair[0])[:3]], axis=0)
        expected = centre / np.linalg.norm(centre) * np.linalg.norm(weight, axis=1).mean()
        assert np.allclose(method.point.parts["logits.weight"][label], expected, atol=1e-5)
    assert not method.point.parts["logits.bias"].any()


def _entropy(z) -> float:
    p = softmax(z[None])[0]
    return float(-(p * np.log(p)).sum())


def test_lame_is_a_fixed_point(context, faded) -> None:
    """z = softmax(log p + K z), below the predictions in what LAME minimises: Σ KL(zᵢ, pᵢ) - ½ Σ kᵢⱼ ⟨zᵢ, zⱼ⟩."""
    x = faded[0][:24]
    logits = context.learner.logits(context.start, x)
    z, p = softmax(Lame(context).outputs(x, logits)), softmax(logits)
    rows = context.learner.embeddings(context.start, x).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])
    width = np.mean([sorted(row)[4] for row in distances])
    kernel = np.exp(-(distances**2) / (2 * width**2))
    assert np.allclose(z, softmax(np.log(p) + kernel @ z), atol=1e-4)

    def cost(z) -> float:
        return float((z * (np.log(np.maximum(z, 1e-30)) - np.log(p))).sum() - 0.5 * (kernel * (z @ z.T)).sum())

    assert cost(z) < cost(p)
    assert np.array_equal(Lame(context).outputs(x[:2], logits[:2]), logits[:2])


@pytest.mark.parametrize("method", [functools.partial(Spsa, lr=0.05), CmaEs])
def test_search_goes_down_the_loss(method, context, faded) -> None:
    """Without a gradient: the loss of one batch, again and again, is less in the end."""
    x, begun, losses = faded[0][:32], Batch(context), []
    begun.observe(x)  # with the base's statistics everything looks like one class, whatever the mixture
    search = method(dataclasses.replace(context, start=begun.point))
    for _ in range(40):
        logits = context.score(search.point, x)
        losses.append(information_loss(logits)[0])
        search.learn(x, logits)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05


class Bowl(CmaEs):
    """The same search where the lowest point is known: stretched a hundredfold from one coordinate to the last."""

    def loss(self, mixture, x) -> float:
        """A quadratic."""
        return float((np.geomspace(1, 100, mixture.size) * (mixture.ravel() - 0.5) ** 2).sum())


def test_cma_es_finds_the_lowest_point(context, faded) -> None:
    """As it should of a stretched quadratic; every coordinate to a thousandth."""
    search = Bowl(context)
    for _ in range(400):
        search.learn(faded[0][:1], np.zeros((1, 10), dtype=np.float32))
    assert np.abs(search.point.parts["mixture"] - 0.5).max() < 1e-3


def test_rotta_keeps_all_classes(context) -> None:
    """Class after class, and still its memory holds as many of each; reset forgets all of them."""
    method = Rotta(context, memory=20)
    for label in range(10):
        x = np.full((40, 1, 32, 32), label / 10, dtype=np.float32)
        method.learn(x, certain([label] * 40))
    found = np.round(10 * context.learner.asked.seen[-1][:, 0, 0, 0]).astype(int)
    assert np.bincount(found, minlength=10).tolist() == [2] * 10
    before = len(context.learner.asked.seen)
    method.reset(context.start)
    for more in (0, 1):  # a memory's worth of samples has come after the second ten, and teaches
        method.learn(np.full((10, 1, 32, 32), 0.95, dtype=np.float32), certain(list(range(10))))
        assert len(context.learner.asked.seen) == before + more
    assert (context.learner.asked.seen[-1] == np.float32(0.95)).all()
