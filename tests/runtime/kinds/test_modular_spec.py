"""Sizes of modular networks: what components are, which shapes they have, and what is refused."""

import dataclasses
import json
import math

import pytest
from modular import ALL, DENSE, NORMED, PLAIN

from isoform.runtime.errors import SpecError
from isoform.runtime.kinds.allocation.operations import chained
from isoform.runtime.kinds.allocation.spec import LayerSizes, ModularSpec


def chain(text, before=(4, 9, 7), **changes):
    """A component of four channels that reads 9 × 7 pixels."""
    return chained(text, before, **{"channels": 4, "stride": 1, "padding": "same", "norm": False, **changes})


def test_the_mnist_network_of_the_paper() -> None:
    """28 → 24 → 12 → 10 → 5 → 3 pixels, an embedding of 36, and 3,080 weights with four logits layers (appendix B)."""
    layers = tuple(
        LayerSizes(components=(f"conv{size}x{size}",) * 4, pool=pool) for size, pool in ((5, 2), (3, 2), (3, 1))
    )
    spec = ModularSpec(input_shape=(1, 28, 28), layers=layers, channels=4, padding="valid")
    assert spec.embedding == 36
    assert [layer.after for layer in spec.geometry] == [(4, 12, 12), (4, 5, 5), (4, 3, 3)]
    weights = sum(math.prod(shape) for shape in spec.template_shapes.values())
    assert weights + 4 * (36 * 10 + 10) == 3080


def test_strides_and_padding() -> None:
    """A stride is that of the last operation and rounds up; pools keep the channels; identities become convolutions where sizes change."""
    first, last = chain("conv3x3-conv5x5", stride=2)
    assert (first.after, last.after, last.pads) == ((4, 9, 7), (4, 5, 4), (2, 2))
    assert [step.after for step in chain("conv1x7-conv7x1")] == [(4, 9, 7)] * 2
    assert chain("maxpool3x3", before=(6, 9, 7))[0].after == (6, 9, 7)
    assert chain("identity")[0].shapes == {}
    (strided,) = chain("identity", stride=2, norm=True)
    assert (strided.what, strided.after, strided.norm, strided.relu) == ("conv", (4, 5, 4), False, False)
    assert list(strided.shapes) == ["weight", "bias"]
    assert list(chain("conv3x3", norm=True)[0].shapes) == ["weight", "bias", "gamma", "beta"]
    assert [step.kernel for step in chain("dense16-linear3")] == [(9, 7), (1, 1)]
    assert [step.relu for step in chain("dense16-linear3")] == [True, False]


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("convolution", {}, "operation 'convolution', but conv3x3"),
        ("conv0x3", {}, "operation 'conv0x3'"),
        ("conv3x3-", {}, "operation ''"),
        ("-".join(["conv3x3"] * 9), {}, "has 9 operations, but at most 8"),
        ("conv2x2", {}, "even kernel"),
        ("conv9x9", {"padding": "valid"}, "fewer than its kernel"),
        ("dense4", {"stride": 2}, "a fully connected operation has none"),
    ],
)
def test_what_is_no_component(text, changes, message) -> None:
    """One line says what is wrong with it."""
    with pytest.raises(SpecError, match=message):
        chain(text, **changes)


@pytest.mark.parametrize("spec", ALL.values(), ids=ALL)
def test_round_trip(spec) -> None:
    """A bundle's JSON gives the same sizes back."""
    assert ModularSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "mixture"}, "kind is 'mixture', but 'allocation'"),
        ({"input_shape": (2, 9)}, "input_shape is"),
        ({"input_shape": (2, 9, 0)}, "input_shape is"),
        ({"channels": 0}, "channels is 0"),
        ({"channels": True}, "channels is True"),
        ({"norm_groups": 3}, "norm_groups is 3, but 0 or a divisor of the 8"),
        ({"stem": 1}, "stem is 1"),
        ({"padding": "full"}, "padding is 'full'"),
        ({"combine": "max"}, "combine is 'max'"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0"),
        ({"mean": (0.0,)}, "mean is"),
        ({"std": (1.0, 0.0)}, "every entry must be above 0"),
        ({"layers": ()}, "0 modular layers"),
        ({"layers": (LayerSizes(components=()),)}, "layer 0 has 0 components"),
        ({"layers": (LayerSizes(components=("conv3x3",), stride=9),)}, "the stride 9"),
        ({"layers": (LayerSizes(components=("conv3x3",), pool=0),)}, "the pool 0"),
        ({"layers": (LayerSizes(components=("conv3x3",), pool=8),)}, "larger than the 8×9×7"),
        ({"layers": (LayerSizes(components=("conv3x3", "dense4")),)}, "dense4 writes 4×1×1, but conv3x3 8×9×7"),
        ({"layers": (LayerSizes(components=("conv3x3",)), LayerSizes(components=("what",)))}, "layer 1: .*'what'"),
        ({"layers": (LayerSizes(components=("conv3x3",) * 64),) * 9}, "at most 512 allocations"),
        ({"channels": 4096, "layers": (LayerSizes(components=("conv9x9",) * 64),)}, "at most 268,435,456"),
    ],
)  # fmt: skip
def test_sizes_out_of_range(changes, message) -> None:
    """A bundle may come from a stranger: every size has a limit, and one line names it."""
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(NORMED, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "conv3x3"}, "layers is a str"),
        ({"layers": ["conv3x3"]}, "layer 0 is a str"),
        ({"layers": [{"components": "conv3x3"}]}, "a list of texts"),
        ({"layers": [{"components": ["conv3x3"], "strides": 2}]}, r"layer 0 has unknown fields \['strides'\]"),
        ({"extra": 1}, r"unknown fields \['extra'\]"),
        ({"mean": 3}, "wrong type"),
    ],
)
def test_malformed_json(changes, message) -> None:
    """What is no description is refused with its place."""
    with pytest.raises(SpecError, match=message):
        ModularSpec.from_json({**PLAIN.to_json(), **changes})
    with pytest.raises(SpecError, match="lacks"):
        ModularSpec.from_json({"kind": "allocation"})
    with pytest.raises(SpecError, match="is a list"):
        ModularSpec.from_json([])


def test_memory_of_a_sample() -> None:
    """The estimate counts the widest layer with the outputs of all of its components."""
    assert DENSE.sample_bytes("", DENSE.input_shape) == 4 * (12 + 8 + 8 + 16)
    assert PLAIN.sample_bytes("", PLAIN.input_shape) == 4 * (196 + 4 * 4 * 144)
