"""Masks: names of graphs, gates, averages and distances, and masks that no network has."""

import dataclasses

import numpy as np
import pytest
from modular import ALL, DENSE, NORMED, PLAIN, random_bundle, random_mask

from isoform.runtime.arithmetic import average, distance
from isoform.runtime.errors import SignatureError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.allocation.masks import ANY, active_share, gates_of, mask_named, name_of


@pytest.mark.parametrize("spec", ALL.values(), ids=ALL)
def test_a_name_is_a_mask(spec) -> None:
    """Every mask that reaches the output has a name of its own, and the name gives it back."""
    rng, names = np.random.default_rng(0), {}
    for _ in range(50):
        mask = random_mask(spec, rng)
        name = name_of(mask)
        assert np.array_equal(mask_named(spec, name), mask)
        assert names.setdefault(name, mask.tobytes()) == mask.tobytes()
    assert mask_named(spec, ANY) is None
    mask[0] = False
    assert name_of(mask) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask-ff", "is no graph"),
        ("mask-xyzu", "is no graph"),
        ("portable", "is no graph"),
        ("mask-FFF0", "is no graph"),
        ("mask-fff1", "is no graph"),
        ("mask-fc00", "is no graph"),
    ],
)
def test_names_of_no_graph(name, message) -> None:
    """A file of a stranger may have any name."""
    with pytest.raises(SignatureError, match=message):
        mask_named(NORMED, name)


def test_components_that_do_not_exist() -> None:
    """The second layer of this network has three components, so a fourth bit is an error, in a signature and in a name."""
    mask = np.ones((2, 4), dtype=bool)
    with pytest.raises(SignatureError, match="uses component 3 of layer 1, which has 3"):
        mask_named(PLAIN, name_of(mask))
    bundle = random_bundle(PLAIN, [np.array(PLAIN.exists)])
    base = bundle.base("task0")
    wrong = base.replace(parts={**base.parts, "allocation": mask})
    with pytest.raises(SignatureError, match="uses component 3 of layer 1, which has 3"):
        bundle.resolve(wrong)
    with pytest.raises(SignatureError, match=r"shape \(3, 4\), but the network expects \(2, 4\)"):
        bundle.resolve(base.replace(parts={**base.parts, "allocation": np.ones((3, 4), dtype=bool)}))


def test_gates() -> None:
    """The outputs of the components in use are averaged or added, and a layer without any has none."""
    mask = np.array([[True, True, False], [False, False, False]])
    spec = dataclasses.replace(DENSE, combine="mean")
    assert gates_of(spec, mask).tolist() == [[0.5, 0.5, 0], [0, 0, 0]]
    assert gates_of(DENSE, mask).tolist() == [[1, 1, 0], [0, 0, 0]]
    assert active_share(DENSE, mask) == 2 / 5


def test_arithmetic() -> None:
    """The average is the majority's mask, the distance the share of components in which two differ."""
    masks = [
        np.array(rows, dtype=bool) for rows in ([[1, 1, 0], [1, 0, 0]], [[1, 0, 0], [1, 1, 0]], [[1, 1, 0], [0, 1, 0]])
    ]
    bundle = random_bundle(DENSE, masks)
    bases = [bundle.base(f"task{number}") for number in range(3)]
    assert distance(bundle, bases[0], bases[1]) == pytest.approx(2 / 6)
    assert distance(bundle, bases[0], bases[0]) == 0
    kind = bundle.kind
    mean = kind.average("allocation", masks, np.full(3, 1 / 3))
    assert mean.tolist() == [[True, True, False], [True, True, False]]
    assert kind.average("allocation", masks[:2], np.full(2, 0.5)).tolist() == [[True, True, False], [True, True, False]]
    same = average(bundle, [bases[0], bases[0]])
    assert np.array_equal(bundle.resolve(same).parts["allocation"], masks[0])


def test_a_mask_is_a_few_bytes(tmp_path) -> None:
    """Bits are stored as bits, inspected as text, and read back; the file of a mask alone is below half a kilobyte."""
    mask = random_mask(NORMED, np.random.default_rng(3))
    bundle = random_bundle(NORMED, [mask])
    alone = bundle.base("task0").keep("allocation")
    assert len(alone.encode()) < 512
    again = Signature.decode(alone.encode())
    assert again == alone
    assert np.array_equal(again.parts["allocation"], mask)
    told = bundle.kind.describe(again.parts)
    assert told["components"] == mask.sum()
    assert told["allocation"] == ["".join("01"[bit] for bit in row) for row in mask.astype(int)]
    assert bundle.kind.describe({}) == {}
    assert np.array_equal(bundle.kind.usage(again.parts), mask)
