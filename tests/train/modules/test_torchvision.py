"""torchvision's networks as bundles: ResNet-18 and MobileNetV3-Small, with random weights."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import vision

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime
from isoform.runtime.errors import IsoformError, MissingExtraError, SpecError
from isoform.train.data.samples import Dataset, Split
from isoform.train.modules.named import named_module
from isoform.train.modules.wrapped import wrap

CLASSES = tuple("abcdefg")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_two_users_of_a_network_of_torchvision(name, tmp_path, monkeypatch) -> None:
    """BN of one user has seen other pictures; answers are torch's for both, from a device plan, whichever came before."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    module = getattr(vision.models(), name)(num_classes=7)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 0.5  # of 0.01, MobileNet's, little would be seen
    x = torch.rand(12, 3, 48, 48)
    with torch.no_grad():
        for _ in range(4):
            module.train()(x)
        [*module.parameters()][-2].div_(module.eval()(x).std())  # random weights make small logits
        wrapped = wrap(module, x[:2], classes=CLASSES, tasks=["ada", "bob"])
        wrapped.train()(3 * x - 1, "bob")
        wrapped.eval()
        assert torch.equal(wrapped(x, "ada"), module(x))
        expected = {task: wrapped(x, task).numpy() for task in ("ada", "bob")}
    path = tmp_path / "bundle"
    wrapped.bundle().write(path)
    split = Split(images=x.numpy(), labels=np.arange(12) % 7)
    dataset = Dataset(train=split, test=split, classes=CLASSES)
    compile_bundle(path, datasets={"ada": dataset, "bob": dataset})
    with Runtime.open(path, engine="onnx") as runtime:
        for task in ("ada", "bob", "ada", "bob"):
            found = runtime.predict(x.numpy(), runtime.signature(task))
            assert np.abs(found - expected[task]).max() <= 1e-4 * max(1, np.abs(expected[task]).max())
    assert np.abs(expected["ada"] - expected["bob"]).max() > 0.01


def test_a_network_by_name(tmp_path) -> None:
    """With weights from a file, or a state dict; it computes what the network they are of computes."""
    torch.manual_seed(0)
    theirs = vision.models().resnet18(num_classes=3).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    x = torch.rand(2, 3, 40, 40)
    for state in (tmp_path / "weights.pt", str(tmp_path / "weights.pt"), theirs.state_dict()):
        found = named_module("torchvision:resnet18", classes=3, state=state)
        with torch.no_grad():
            assert torch.equal(found(x), theirs(x))
    wrapped = wrap(found, x, classes=["a", "b", "c"])
    assert wrapped.gap < 1e-4


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("resnet18", lambda path: None, "torchvision:NAME or timm:NAME"),
        ("keras:resnet18", lambda path: None, "torchvision:NAME or timm:NAME"),
        ("torchvision:resnet19", lambda path: None, "no network 'resnet19'"),
        ("torchvision:resnet18", lambda path: path / "none.pt", "none.pt is not a file of weights"),
        ("torchvision:resnet18", lambda path: [1], "no state dict"),
        ("torchvision:resnet18", lambda path: {"x": torch.zeros(1)}, "weights do not fit torchvision:resnet18: "),
        ("torchvision:resnet18", lambda path: vision.models().resnet18(num_classes=4).state_dict(), "is the number of classes right"),
    ],
)  # fmt: skip
def test_what_is_no_network(name, make, message, tmp_path) -> None:
    """One line, with what was expected."""
    vision.models()
    with pytest.raises(IsoformError, match=message):
        named_module(name, classes=3, state=make(tmp_path))


def test_a_library_that_is_not_installed(monkeypatch) -> None:
    """It is named, with how to get it."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match="needs timm, which cannot be imported.*pip install timm"):
        named_module("timm:resnet18", classes=3)


def test_a_pickle_runs_nothing(tmp_path) -> None:
    """A file of weights from a stranger is data."""

    class Bad:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Bad()}, tmp_path / "weights.pt")
    vision.models()
    with pytest.raises(SpecError, match="not a file of weights"):
        named_module("torchvision:resnet18", classes=3, state=tmp_path / "weights.pt")
    assert not (tmp_path / "ran").exists()
