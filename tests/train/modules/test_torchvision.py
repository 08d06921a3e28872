"""torchvision's networks as bundles: ResNet-18 and MobileNetV3-Small, with random weights."""

import numpy as np
import pytest
import torch
import vision

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime
from isoform.train.data.samples import Dataset, Split
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
