"""The torch network."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import SMALL

from isoform.runtime.kinds.mixture.discrete import discrete_logits
from isoform.runtime.kinds.mixture.reference import reference_logits
from isoform.train.kinds.mixture.bundling import bundle_from_network, network_from_bundle
from isoform.train.kinds.mixture.network import IsometricNetwork


def make(affine="layer", tasks=2, seed=0, **changes):
    """A small network whose statistics and affine are not the initial ones."""
    spec = dataclasses.replace(SMALL, affine=affine, **changes)
    generator = torch.Generator().manual_seed(seed)
    network = IsometricNetwork(spec, (3,) * tasks, generator=generator)
    with torch.no_grad():
        network.bn_affine += 0.3 * torch.randn(network.bn_affine.shape, generator=generator)
        for task in range(tasks):
            network(torch.rand(64, *spec.input_shape, generator=generator), task, momentum=1.0)
    return network


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
def test_torch_is_the_numpy_twin(affine) -> None:
    """Torch and the slow twin agree to 1e-4 through a bundle, wherever γ and β live."""
    network = make(affine)
    bundle = bundle_from_network(network, {"a": ("x", "y", "z"), "b": ("x", "y", "z")}, training={})
    x = np.random.default_rng(0).uniform(0, 1, (6, *SMALL.input_shape)).astype(np.float32)
    for index, task in enumerate("ab"):
        expected = reference_logits(network.spec, bundle.tensors, bundle.resolve(bundle.signatures[task]).parts, x)
        found = network(torch.from_numpy(x), index).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
def test_a_network_survives_its_bundle(affine) -> None:
    """A network made from a bundle has the same weights, bit for bit."""
    network = make(affine)
    bundle = bundle_from_network(network, {"a": tuple("xyz"), "b": tuple("xyz")}, training={})
    again = network_from_bundle(bundle, bundle.signatures)
    for (name, one), other in zip(network.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_the_block_is_mobilenets_inverted_residual() -> None:
    """One layer equals the block written out with torch's own modules: the templates' weighted mean, BN, squeeze-excite, residual."""
    network = make(layers=1)
    spec, x = network.spec, torch.rand(4, *SMALL.input_shape)
    xi = network.xi()[0, 0]
    tensors, start = {}, 0
    for name, shape in spec.block_shapes.items():
        size = int(np.prod(shape))
        tensors[name] = (xi[:, None] * network.templates[:, start : start + size]).sum(0).reshape(shape)
        start += size

    def bn(z, name):
        place = spec.bn_slices[name]
        (mean, var), (gamma, beta) = network.bn_statistics[0][:, place], network.bn_affine[0][:, place]
        return F.batch_norm(z, mean, var, gamma, beta, eps=spec.bn_eps)

    z = F.hardswish(bn(F.conv2d((x - spec.mean[0]) / spec.std[0], network.input_adapter, stride=2), "input_adapter"))
    y = F.hardswish(bn(F.conv2d(z, tensors["expand.weight"]), "layer00.expand"))
    y = F.hardswish(bn(F.conv2d(y, tensors["depthwise.weight"], padding=1, groups=spec.expanded), "layer00.depthwise"))
    s = F.relu(F.conv2d(F.adaptive_avg_pool2d(y, 1), tensors["squeeze.weight"], tensors["squeeze.bias"]))
    y = y * F.hardsigmoid(F.conv2d(s, tensors["excite.weight"], tensors["excite.bias"]))
    z = z + bn(F.conv2d(y, tensors["project.weight"]), "layer00.project")
    z = F.adaptive_avg_pool2d(F.hardswish(bn(F.conv2d(z, network.output_adapter), "output_adapter")), 1).flatten(1)
    z = F.hardswish(F.linear(z, network.embedding_weight, network.embedding_bias))
    expected = F.linear(z, network.heads[0], network.heads[1])
    torch.testing.assert_close(network(x, 0), expected, rtol=1e-4, atol=1e-5)


def test_statistics_belong_to_the_task() -> None:
    """Training on one task moves its statistics, the adapters' included, and leaves every other task's alone."""
    network = make()
    before = network.bn_statistics.clone()
    network(torch.rand(16, *SMALL.input_shape), 1, momentum=0.1)
    assert torch.equal(network.bn_statistics[0], before[0])
    for place in network.spec.bn_slices.values():
        assert not torch.equal(network.bn_statistics[1][:, place], before[1][:, place])
    network(torch.rand(16, *SMALL.input_shape), 1)
    assert torch.equal(network.bn_statistics[0], before[0])


def test_gradients_reach_everything_that_learns() -> None:
    """Templates, ξ, adapters, embedding, BN affine and the task's own logits layer get gradients; the other task's do not."""
    network = make("task")
    network(torch.rand(16, *SMALL.input_shape), 0, momentum=0.1).square().sum().backward()
    for name, parameter in network.named_parameters():
        if name in ("heads.2", "heads.3"):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    assert network.mixture.grad[1].abs().max() == 0
    assert network.bn_affine.grad[1].abs().max() == 0


def test_a_one_hot_mixture_is_its_template() -> None:
    """With one-hot ξ, changing another template changes nothing."""
    network = make()
    network.mixture.data[0] = torch.from_numpy(discrete_logits((0, 0, 0), 2))
    x = torch.rand(4, *SMALL.input_shape)
    before = network(x, 0)
    network.templates.data[1] += 1
    assert torch.equal(network(x, 0), before)
