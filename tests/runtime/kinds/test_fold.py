"""The fold, against the slow numpy twin and to the bit."""

import dataclasses

import numpy as np
import pytest
from support import SMALL, make_bundle

from isoform.runtime.arrays import Array, softmax
from isoform.runtime.kinds.mixture.discrete import discrete_logits
from isoform.runtime.kinds.mixture.fold import fold, folded_shapes, mix, template_matrix
from isoform.runtime.kinds.mixture.normalisation import bn_scale_shift
from isoform.runtime.kinds.mixture.reference import (
    depthwise,
    hard_sigmoid,
    hard_swish,
    patches,
    pointwise,
    reference_logits,
)
from isoform.runtime.kinds.mixture.spec import NetworkSpec


def run_folded(spec: NetworkSpec, w: dict[str, Array], x: Array) -> Array:
    """The network from folded weights alone: no BN, no mixture, no normalisation left."""

    def conv(kind, z: Array, name: str) -> Array:
        return kind(z, w[f"{name}.weight"]) + w[f"{name}.bias"][:, None, None]

    z = hard_swish(conv(patches, x, "input_adapter"))
    for layer in range(spec.layers):
        name = f"layer{layer:02d}"
        y = hard_swish(conv(depthwise, hard_swish(conv(pointwise, z, f"{name}.expand")), f"{name}.depthwise"))
        s = np.maximum(conv(pointwise, y.mean(axis=(2, 3), keepdims=True), f"{name}.squeeze"), 0)
        z = z + conv(pointwise, y * hard_sigmoid(conv(pointwise, s, f"{name}.excite")), f"{name}.project")
    pooled = hard_swish(conv(pointwise, z, "output_adapter")).mean(axis=(2, 3))
    embedded = hard_swish(pooled @ w["embedding.weight"].T + w["embedding.bias"])
    return embedded @ w["logits.weight"].T + w["logits.bias"]


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 4), (2, 1, 8)])
def test_folded_network_is_the_twin(affine, shape) -> None:
    """Folding changes nothing but rounding, for every place of γ and β, several channels, and height-1 windows."""
    kernel = (min(2, shape[1]), 2)
    spec = dataclasses.replace(
        SMALL, affine=affine, input_shape=shape, adapter_kernel=kernel, mean=(0.3,) * shape[0], std=(0.5,) * shape[0]
    )
    bundle = make_bundle(spec)
    parts = bundle.resolve(bundle.signatures["a"]).parts
    x = np.random.default_rng(0).uniform(0, 1, (5, *shape)).astype(np.float32)
    expected = reference_logits(spec, bundle.tensors, parts, x)
    found = run_folded(spec, fold(spec, bundle.tensors, parts), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_discrete_layer_is_its_template_bit_for_bit() -> None:
    """Before BN is folded in, a discrete layer's tensors are its template's, bit for bit."""
    bundle = make_bundle(SMALL)
    sequence = (1, 0, 1)
    blocks = mix(SMALL, template_matrix(SMALL, bundle.tensors), {"mixture": discrete_logits(sequence, 2)})
    for name in SMALL.block_shapes:
        for layer, template in enumerate(sequence):
            assert blocks[name][layer].tobytes() == bundle.tensors[f"template.{name}"][template].tobytes()


def test_fold_rounds_little() -> None:
    """Every folded number is within four roundings of the float64 result, in proportion to what was added up."""
    bundle = make_bundle(SMALL)
    parts = bundle.resolve(bundle.signatures["a"]).parts
    xi = softmax(parts["mixture"])
    gamma, beta = parts["bn.affine"].astype(np.float64)
    mean, var = parts["bn.statistics"].astype(np.float64)
    place = SMALL.bn_slices["layer01.expand"]
    scale = gamma[place] / np.sqrt(var[place] + SMALL.bn_eps)
    template = bundle.tensors["template.expand.weight"].astype(np.float64)
    expected = (xi[1, 0] * template[0] + xi[1, 1] * template[1]) * scale[:, None, None, None]
    folded = fold(SMALL, bundle.tensors, parts)
    added = (xi[1, 0] * np.abs(template[0]) + xi[1, 1] * np.abs(template[1])) * np.abs(scale[:, None, None, None])
    assert (np.abs(folded["layer01.expand.weight"] - expected) <= 4 * 2**-24 * added).all()
    np.testing.assert_allclose(folded["layer01.expand.bias"], beta[place] - mean[place] * scale, rtol=2**-23, atol=1e-9)


def test_fold_returns_what_it_promises() -> None:
    """Names, order, shapes, types and contiguity are those of ``folded_shapes``, then the logits layer."""
    bundle = make_bundle(SMALL)
    folded = fold(SMALL, bundle.tensors, bundle.resolve(bundle.signatures["a"]).parts)
    assert list(folded) == [*folded_shapes(SMALL), "logits.weight", "logits.bias"]
    for name, shape in folded_shapes(SMALL).items():
        assert folded[name].shape == shape
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in folded.values())


def test_scale_and_shift_are_bn() -> None:
    """x · s + t is BN's γ (x - mean) / √(var + ε) + β."""
    rng = np.random.default_rng(0)
    affine = rng.normal(size=(2, SMALL.bn_channels)).astype(np.float32)
    statistics = np.abs(rng.normal(size=(2, SMALL.bn_channels))).astype(np.float32)
    scale, shift = bn_scale_shift(SMALL, {}, {"bn.affine": affine, "bn.statistics": statistics})
    x = rng.normal(size=SMALL.bn_channels)
    expected = affine[0] * (x - statistics[0]) / np.sqrt(statistics[1].astype(np.float64) + SMALL.bn_eps) + affine[1]
    np.testing.assert_allclose(x * scale + shift, expected, rtol=1e-9, atol=1e-9)
