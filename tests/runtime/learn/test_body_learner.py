"""Learning on the device for modules that somebody brought: gradients, BN's statistics and personalize, compared with torch."""

import numpy as np
import pytest
import torch
from strangers import stranger
from torch import nn

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime
from isoform.runtime.bodies.differences import DIRECTIONS, _directions
from isoform.runtime.learn.loss import cross_entropy
from isoform.train.data.samples import Dataset, Split
from isoform.train.modules.wrapped import wrap


def compiled(name, folder, **options):
    """A wrapped module whose parts are not where they began, and the path of its compiled bundle."""
    module, samples, classes = stranger(name)
    wrapped = wrap(module, samples(3), classes=classes, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.own_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    wrapped.bundle().write(folder)
    x = samples(12)
    split = Split(images=x.numpy(), labels=np.arange(12) % len(classes))
    compile_bundle(folder, datasets={"base": Dataset(train=split, test=split, classes=tuple(classes))})
    return wrapped, samples


@pytest.mark.parametrize("name", ["residual", "attention", "features", "recurrent", "gated"])
@pytest.mark.parametrize(
    ("count", "options"),
    [(16, {"kind": "mixture", "private": ("norm", "bias")}), (21, {"kind": "mixture", "private": ("norm", "bias")}),
     (16, {"delta": ("*weight*",), "rank": 2})],
)  # fmt: skip
def test_gradients_are_torchs(name, count, options, tmp_path) -> None:
    """Of every part of a signature, for a full batch, and for one that is cut in two and filled up."""
    wrapped, samples = compiled(name, tmp_path, **options)
    x, labels = samples(count, 3), torch.arange(count) % 3
    logits = wrapped(x)
    loss = nn.functional.cross_entropy(logits, labels)
    loss.backward()
    with Runtime.open(tmp_path) as runtime:
        learner = runtime.learner
        point = learner.point(runtime.signature("base"))
        # the transformer ends in a softmax, which makes no difference to this loss or its gradient
        value, found = learner.gradient(point, x.numpy(), lambda some: cross_entropy(some, labels.numpy()))
    assert value == pytest.approx(loss.item(), rel=1e-5)
    expected = {
        "mixture": wrapped.mixture.grad, "private": wrapped.private.grad, "bn.affine": wrapped.affine.grad, "delta": wrapped.delta.grad,
        "logits.weight": next(iter(wrapped.heads)).grad[None],
    }  # fmt: skip
    if len(wrapped.biases):
        expected["logits.bias"] = next(iter(wrapped.biases)).grad[None]
    assert {*found} == {*runtime.bundle.spec.part_shapes} - {"bn.statistics"}
    for part in expected.keys() & found.keys():
        theirs = expected[part][0].numpy()
        assert np.abs(found[part] - theirs).max() <= 1e-4 * np.abs(theirs).max(), part


def test_forward_passes_alone_see_the_gradient_along_their_directions(tmp_path) -> None:
    """Where an operator has no rule, as torch's gradient, projected; BN's statistics are estimated as elsewhere."""
    wrapped, samples = compiled("summed", tmp_path, private=("norm", "bias"))
    x, labels = samples(16, 3), torch.arange(16) % 3
    nn.functional.cross_entropy(wrapped(x), labels).backward()
    with Runtime.open(tmp_path) as runtime:
        learner, start = runtime.learner, runtime.signature("base")
        assert not learner.backpropagates("base")
        assert learner.normalises("base")
        point = learner.point(start)
        found = learner.gradient(point, x.numpy(), lambda some: cross_entropy(some, labels.numpy()))[1]
        assert {*found} == {*runtime.bundle.spec.part_shapes} - {"bn.statistics"}
        for moving in (("bn.affine",), ("bn.affine", "logits.bias")):
            some = learner.gradient(
                point, x.numpy(), lambda logits: cross_entropy(logits, labels.numpy()), moving=moving
            )[1]
            assert {*some} == {"bn.affine", "logits.weight", "logits.bias"}
    for part, grad in (("private", wrapped.private.grad), ("bn.affine", wrapped.affine.grad)):
        rows = _directions(part, grad[0].numel())
        assert np.allclose(rows @ rows.T, np.eye(DIRECTIONS), atol=1e-6)
        expected = rows.T @ (rows @ grad[0].numpy().ravel().astype(np.float64))
        # a step is long, so the slope is not exactly the gradient
        assert np.abs(found[part].ravel() - expected).max() <= 0.1 * np.abs(expected).max(), part


@pytest.mark.parametrize("name", ["residual", "features"])
def test_statistics_are_those_of_training_mode(name, tmp_path) -> None:
    """BN's statistics of a batch, layer after layer, and the logits with them, are torch's in training mode; α blends."""
    wrapped, samples = compiled(name, tmp_path)
    x = 2 * samples(40, 4) - 1
    given = wrapped.statistics[0].clone().numpy()
    with Runtime.open(tmp_path) as runtime:
        learner = runtime.learner
        point = learner.point(runtime.signature("base"))
        found, half = (learner.statistics(point, x.numpy(), alpha=alpha) for alpha in (1.0, 0.5))
        passed = learner.normalised(
            point, x.numpy(), lambda place, moments: (moments.mean, moments.square - moments.mean**2)
        )
    for layer in wrapped._module[0].modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1.0
    wrapped.train()
    with torch.no_grad():
        expected = wrapped(x).numpy()
    rows = wrapped.statistics[0].numpy().copy()
    assert np.abs(passed.logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(found[0] - rows[0]).max() <= 1e-4 * np.abs(rows[0]).max()
    counts = {2: 40, 4: 40 * 64}[x.dim()]
    assert (
        np.abs(found[1] * counts / (counts - 1) - rows[1]).max() <= 1e-4 * rows[1].max()
    )  # torch's running variance is unbiased
    first = slice(0, wrapped.spec.body.norms[0].channels)
    assert np.allclose(half[:, first], (found[:, first] + given[:, first]) / 2, atol=1e-4)


@pytest.mark.parametrize("name", ["residual", "features", "recurrent", "summed", "open"])
def test_personalize(name, tmp_path) -> None:
    """New samples of shifted classes are learned; by forward passes alone where an operator has no rule, or lengths are open."""
    options = {"lengths": (20, 21)} if name == "open" else {}
    _, samples = compiled("recurrent" if name == "open" else name, tmp_path, private=("norm", "bias"), **options)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, *samples(1).shape[1:])).astype(np.float32)

    def drawn(count):
        labels = np.arange(count) % 3
        return (2 * directions[labels] + rng.normal(size=(count, *directions.shape[1:]))).astype(np.float32), labels

    x, labels = drawn(45)
    test, truth = drawn(300)
    with Runtime.open(tmp_path) as runtime:
        start = runtime.signature("base")
        names = start.labels[:3]
        outcome = runtime.fit(x, [names[label] for label in labels], start=start)
        before, after = (
            (runtime.predict(test, signature).argmax(1) == truth).mean() for signature in (start, outcome.signature)
        )
        learned = {*outcome.signature.parts}
    assert outcome.improved
    assert after > before + 0.2
    assert "private" in learned
    assert outcome.estimated == (name in {"summed", "open"})
    assert ("private, head by forward passes alone in" in outcome.sentence()) == (name == "open")


def test_adapting_without_labels(tmp_path) -> None:
    """Methods that need BN run on somebody's module, and move its statistics."""
    wrapped, samples = compiled("residual", tmp_path)
    x = (3 * samples(64, 5) + 2).numpy()
    with Runtime.open(tmp_path) as runtime:
        for method in ("batch", "alpha", "tent"):
            adapter = runtime.adapter(runtime.signature("base"), method=method)
            assert adapter(x[:32]).shape == (32, 5)
            adapter(x[32:])
            moved = runtime.bundle.resolve(adapter.signature).parts["bn.statistics"]
            gap = np.abs(moved - wrapped.statistics[0].numpy()).max()
            if method != "batch":  # which normalises each batch by itself, and keeps nothing
                assert gap > 0.1
