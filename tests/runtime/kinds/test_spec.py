"""Sizes and names of the isometric network."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import SMALL

from isoform.runtime.errors import SpecError
from isoform.runtime.formats.templates import template_digest
from isoform.runtime.kinds.mixture.spec import NetworkSpec


@pytest.mark.parametrize(("channels", "expected"), [(24, 19_380), (40, 51_500)])
def test_block_size_matches_the_paper_notes(channels: int, expected: int) -> None:
    """A block with expansion 6 and a bottleneck of 6C/4 has the counted parameters, BN's γ and β included (papers.md 1.2)."""
    spec = NetworkSpec(
        input_shape=(1, 32, 32), adapter_kernel=(4, 4), layers=1, templates=1, channels=channels, expansion=6
    )
    assert spec.block_size + 2 * spec.block_bn_channels == expected


def test_bn_slices_cover_every_channel_once() -> None:
    """The BN vector's slices follow one another without gaps."""
    covered = [i for place in SMALL.bn_slices.values() for i in range(place.start, place.stop)]
    assert covered == list(range(SMALL.bn_channels))
    assert len(SMALL.bn_slices) == 2 + 3 * SMALL.layers


def test_mixed_affine_moves_gamma_and_beta_into_the_templates() -> None:
    """With affine = mixed every template has γ and β of its own; with task none is shared."""
    mixed = dataclasses.replace(SMALL, affine="mixed")
    assert mixed.block_size == SMALL.block_size + 2 * SMALL.block_bn_channels
    assert "bn.affine" not in dataclasses.replace(SMALL, affine="task").template_shapes


@given(
    st.builds(
        NetworkSpec,
        input_shape=st.tuples(st.just(2), st.sampled_from([4, 8]), st.sampled_from([8, 16])),
        adapter_kernel=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 8])),
        layers=st.integers(1, 20),
        templates=st.integers(1, 9),
        channels=st.integers(1, 64),
        mean=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
        std=st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)),
        affine=st.sampled_from(["layer", "task", "mixed"]),
    )
)
def test_json_round_trip(spec: NetworkSpec) -> None:
    """What ``to_json`` writes, ``from_json`` reads back."""
    assert NetworkSpec.from_json(spec.to_json()) == spec
    assert math.prod(spec.grid) * math.prod(spec.adapter_kernel) == math.prod(spec.input_shape[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "alignment"}, "kind is 'alignment', but this version reads 'mixture'"),
        ({"input_shape": [1, 8]}, "input_shape is .*3 positive whole numbers"),
        ({"input_shape": [1, 8, -8]}, "input_shape is"),
        ({"adapter_kernel": [3, 2]}, "does not divide the input's 8×8 pixels"),
        ({"layers": 0}, "layers is 0, but a whole number from 1 to 256"),
        ({"layers": True}, "layers is True"),
        ({"templates": 2.5}, "templates is 2.5"),
        ({"channels": "24"}, "channels is '24'"),
        ({"kernel": 4}, "must be odd"),
        ({"se_ratio": 0}, "se_ratio is 0"),
        ({"bn_eps": 1.0}, "bn_eps is 1.0"),
        ({"affine": "both"}, "affine is 'both'"),
        ({"mean": [0.0, 1.0]}, "mean is .*one finite number per input channel"),
        ({"mean": [float("nan")]}, "mean is"),
        ({"std": [0.0]}, "std is .*above 0"),
        ({"colour": 3}, "unknown fields .*colour"),
        ({"se_ratio": "x"}, "wrong type|se_ratio"),
        ({"mean": 3}, "wrong type|mean"),
        ({"input_shape": None}, "wrong type|input_shape"),
    ],
)
def test_bad_sizes_are_refused(change: dict[str, object], message: str) -> None:
    """Every field out of its range or type is named."""
    with pytest.raises(SpecError, match=message):
        NetworkSpec.from_json({**SMALL.to_json(), **change})


@pytest.mark.parametrize("value", [None, 3, [], "spec"])
def test_a_description_must_be_an_object(value: object) -> None:
    """Anything but an object is refused."""
    with pytest.raises(SpecError, match="an object was expected"):
        NetworkSpec.from_json(value)


def test_missing_fields_are_named() -> None:
    """A description without its required fields says which."""
    with pytest.raises(SpecError, match="lacks .*layers"):
        NetworkSpec.from_json({"templates": 2})


def test_template_digest_depends_on_spec_names_shapes_and_values() -> None:
    """Any change of the spec, of a name, a shape or a number changes the digest; order does not."""
    tensors = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}
    digest = template_digest(SMALL, tensors)
    assert digest == template_digest(SMALL, dict(reversed(tensors.items())))
    others = [
        template_digest(dataclasses.replace(SMALL, bn_eps=2e-3), tensors),
        template_digest(SMALL, {"a": tensors["a"].reshape(3, 2), "b": tensors["b"]}),
        template_digest(SMALL, {"a": tensors["a"], "c": tensors["b"]}),
        template_digest(SMALL, {"a": tensors["a"], "b": tensors["b"] + 1}),
    ]
    assert len({digest, *others}) == 5
