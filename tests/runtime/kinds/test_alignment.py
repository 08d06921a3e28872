"""Kind ``alignment`` on the device: what a signature may hold, arithmetic, and files from strangers."""

import dataclasses

import numpy as np
import pytest
from aligned import aligned, shuffled

from isoform.runtime import arithmetic
from isoform.runtime.errors import SignatureError, SpecError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.alignment.packing import Cut
from isoform.runtime.kinds.alignment.spec import AlignmentSpec
from isoform.train.kinds.alignment.bundling import bundle_from_networks


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Three tasks of different architectures."""
    return bundle_from_networks(shuffled(aligned()[0]), training={})


@pytest.mark.parametrize("shape", [(8, 4), (9, 5, 3), (16, 8, 3, 3), (7, 3)])
def test_blocks_and_weights_are_inverse(shape) -> None:
    """A weight cut and put together is itself; a cut is the transpose of putting together, as a gradient needs it."""
    rng, cut = np.random.default_rng(0), Cut(shape, 4, 8)
    weight = rng.normal(size=shape)
    blocks = cut.blocks(weight)
    assert blocks.shape == (cut.count, 32)
    assert np.array_equal(cut.weight(blocks), weight)
    other = rng.normal(size=blocks.shape)
    assert (cut.weight(other) * weight).sum() == pytest.approx((other * blocks).sum())


def test_blocks_are_their_definition(bundle) -> None:
    """Location by location: z H of a generic module, the stored block of a specific one."""
    for task, base in bundle.signatures.items():
        parts, spec = base.parts, bundle.spec
        weights = bundle.network.graph(f"network.{task}").fold(parts)
        location = generic = 0
        for name, cut in spec.cuts(task).items():
            blocks = cut.blocks(weights[name])
            for block in blocks:
                module = parts["alignment"][location]
                if module < spec.hypermodules:
                    expected = parts["contexts"][generic] @ bundle.tensors["hypermodules"][module]
                    generic += 1
                else:
                    expected = bundle.tensors["blocks"][module - spec.hypermodules]
                assert block == pytest.approx(expected, abs=1e-6)
                location += 1
        assert location == len(parts["alignment"])


def changed(bundle, task, **parts) -> Signature:
    """A user's signature."""
    base = bundle.base(task)
    return base.replace(parts={**base.parts, **parts})


@pytest.mark.parametrize(
    ("part", "make", "message"),
    [
        ("alignment", lambda a: a[:-1], "must be [0-9,]+ whole numbers from 0"),
        ("alignment", lambda a: np.where(np.arange(len(a)) == 0, 10_000, a), "must be [0-9,]+ whole numbers from 0"),
        ("alignment", lambda a: np.where(np.arange(len(a)) == 0, -1, a), "must be [0-9,]+ whole numbers from 0"),
        ("contexts", lambda a: a[:-1], "holds contexts of shape"),
        ("private", lambda a: a[:-1], "holds private of shape"),
        ("bn.affine", lambda a: a[:, :-1], "holds bn.affine of shape"),
        ("logits.weight", lambda a: a[:, :-1], "holds logits.weight of shape"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(bundle, part, make, message) -> None:
    """Sizes differ between tasks, so that only the network of the task can tell; it says so before anything is computed."""
    signature = changed(bundle, "residual", **{part: make(np.array(bundle.base("residual").parts[part]))})
    with pytest.raises(SignatureError, match=message):
        bundle.resolve(signature)


def test_parts_of_another_task(bundle) -> None:
    """BN in a signature of a network without, and a task that does not exist."""
    statistics = bundle.base("residual").parts["bn.statistics"]
    with pytest.raises(SignatureError, match="bn.statistics of shape .*, but none was expected"):
        bundle.resolve(changed(bundle, "recurrent", **{"bn.statistics": statistics}))
    with pytest.raises(SignatureError, match="no task 'x'; the bundle has residual, recurrent, attention"):
        bundle.resolve(bundle.base("recurrent").replace(parts=bundle.base("recurrent").parts, task="x"))
    partial = bundle.base("recurrent").keep("contexts")
    assert bundle.resolve(partial).parts.keys() == bundle.base("recurrent").parts.keys()


def test_round_trip(bundle, tmp_path) -> None:
    """Written and read, spec and signatures are the same; an alignment takes a byte or two per location."""
    bundle.write(tmp_path / "bundle")
    again = Bundle.load(tmp_path / "bundle")
    assert again.spec == bundle.spec
    assert again.signatures == bundle.signatures
    assert AlignmentSpec.from_json(bundle.spec.to_json()) == bundle.spec
    alone = bundle.signatures["attention"].keep("alignment")
    assert len(alone.encode()) < 600 + 2 * bundle.spec.locations("attention")


def test_arithmetic(bundle) -> None:
    """Users of one task have an average; alignments have none; distances are of the use of modules, in any two architectures."""
    base = bundle.base("residual")
    user = changed(bundle, "residual", contexts=base.parts["contexts"] + 1)
    mean = arithmetic.average(bundle, [base, user])
    assert bundle.resolve(mean).parts["contexts"] == pytest.approx(base.parts["contexts"] + 0.5, abs=1e-6)
    assert arithmetic.distance(bundle, base, user) == 0
    apart = arithmetic.distance(bundle, base, bundle.base("attention"))
    assert 0 < apart < 1
    assert apart == arithmetic.distance(bundle, bundle.base("attention"), base)
    other = np.array(base.parts["alignment"])
    generic = np.flatnonzero(other < bundle.spec.hypermodules)
    other[generic[0]] = (other[generic[0]] + 1) % bundle.spec.hypermodules
    moved = changed(bundle, "residual", alignment=other)
    assert arithmetic.distance(bundle, base, moved) == pytest.approx(1 / len(other))
    with pytest.raises(SignatureError, match="differ in alignment, so they have no average"):
        arithmetic.average(bundle, [base, moved])
    kind = bundle.kind
    assert all(kind.usage(some.parts).shape == (16, 16) for some in bundle.signatures.values())
    assert kind.usage(base.parts).sum(axis=1) == pytest.approx(1)
    told = kind.describe(base.parts)
    assert told["locations"] == len(other)
    assert kind.describe(base.keep("private").parts) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": 0}, "m is 0"),
        ({"n": 4096}, "n is 4096"),
        ({"context": -1}, "context is -1"),
        ({"context": 0}, "which need contexts"),
        ({"hypermodules": 0}, "a task has contexts, but there are no hypermodules"),
        ({"hypermodules": 1 << 20, "context": 256}, "blocks of .* but at most"),
        ({"tasks": {}}, "0 tasks"),
        ({"kind": "mixture"}, "kind is 'mixture'"),
    ],
)  # fmt: skip
def test_sizes_out_of_range(bundle, change, message) -> None:
    """A bundle from a stranger cannot ask for any amount of memory."""
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(bundle.spec, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aligned": ["nothing"]}, "different weights of the body"),
        ({"aligned": ["conv3.weight", "conv3.weight"]}, "different weights of the body"),
        ({"private": ["conv3.weight"]}, "different weights of the body"),
        ({"aligned": ["conv2.bias"], "private": []}, "'conv2.bias' is a vector"),
        ({"aligned": "conv3.weight"}, "a list of names was expected"),
        ({"contexts": 1}, "contexts is 1, but true or false"),
        ({"body": 3}, "a body is a int"),
        ({"more": 3}, "unknown fields"),
    ],
)  # fmt: skip
def test_malformed_tasks(bundle, change, message) -> None:
    """One line, whatever a file says."""
    content = bundle.spec.to_json()
    content["tasks"]["residual"].update(change)
    with pytest.raises(SpecError, match=message):
        AlignmentSpec.from_json(content)
    with pytest.raises(SpecError, match="tasks is a list|tasks is a tuple"):
        AlignmentSpec.from_json({**content, "tasks": []})
    with pytest.raises(SpecError, match="is named"):
        AlignmentSpec.from_json({**content, "tasks": {"../x": content["tasks"]["attention"]}})
