"""What a signature inherits and what it holds: a part of a user's own is never exchanged for the base's, and one of the base never stored."""

import argparse
import dataclasses
import json

import numpy as np
import pytest
from aligned import aligned
from modular import DENSE, random_bundle
from strangers import stranger
from support import ROOT, SMALL, make_bundle

from isoform.compile.kinds.mixture.training import training_graphs
from isoform.runtime.arithmetic import average
from isoform.runtime.cli import main
from isoform.runtime.errors import SignatureError
from isoform.runtime.formats.inheritance import reduced
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import KINDS
from isoform.runtime.kinds.mixture.learn.learner import MixtureLearner
from isoform.runtime.learn.learner import Point
from isoform.runtime.learn.personalize import personalize
from isoform.runtime.runtime import Runtime
from isoform.train.data.formats.digits import digits
from isoform.train.kinds.alignment.bundling import bundle_from_networks
from isoform.train.modules import wrap

KEPT = ROOT / "docs" / "examples" / "bundle"
BUNDLE = make_bundle(SMALL)
BASE = BUNDLE.signatures["a"]


FULL = ("mixture", "bn", "head")


@pytest.fixture(scope="module")
def learner() -> MixtureLearner:
    """What learns over the small bundle."""
    return MixtureLearner(BUNDLE, training_graphs(SMALL), threads=1)


@pytest.fixture(scope="module")
def kept():
    """A runtime over the bundle that is kept in the repository."""
    with Runtime.open(KEPT) as runtime:
        yield runtime


def samples(count=6):
    """Some of each of three classes that are told apart by their brightness, and their labels."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), count)
    return (rng.uniform(0, 1, (len(labels), *SMALL.input_shape)) + labels[:, None, None, None]).astype(
        np.float32
    ), labels


def user(**changes) -> Signature:
    """A user of the base with a mixture and a logits layer of their own, in a file that has the base's statistics as well."""
    parts = {**BASE.parts, "mixture": BASE.parts["mixture"] * 2, "logits.weight": BASE.parts["logits.weight"] + 1}
    return BASE.replace(**{"parts": parts, "base": BASE.digest, **changes})


@pytest.mark.trust
def test_keep_never_exchanges_a_users_own_part_for_the_bases() -> None:
    """A part of a user's own that would be lost is named; a base's parts, and all of a user's, are kept and predict the same."""
    with pytest.raises(
        SignatureError, match=r"has its own bn\.statistics, logits\.weight, logits\.bias.*keep these too"
    ):
        user().keep("mixture")
    with pytest.raises(SignatureError, match="has no part 'bn'"):
        BASE.keep("mixture", "bn")
    for whole, part in ((user(), user().keep(*user().parts)), (BASE, BASE.keep("mixture"))):
        expected = BUNDLE.resolve(whole).parts
        for name, array in BUNDLE.resolve(part).parts.items():
            assert np.array_equal(array, expected[name]), name
        assert part.parent == whole.digest


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
def test_reduced_predicts_the_same_in_fewer_bytes(affine) -> None:
    """What would be inherited bit for bit is left out, of a base all but its mixture; what is a user's own stays."""
    bundle = make_bundle(dataclasses.replace(SMALL, affine=affine))
    base = bundle.signatures["a"]
    whole = base.replace(
        parts={**bundle.resolve(base).parts, "logits.bias": base.parts["logits.bias"] + 1}, base=base.digest
    )
    for signature, parts in ((base, {"mixture"}), (whole, {"logits.weight", "logits.bias"})):
        found = reduced(bundle, signature)
        assert set(found.parts) == parts
        assert reduced(bundle, found) is found
        expected = bundle.resolve(signature).parts
        assert {name: array.tobytes() for name, array in bundle.resolve(found).parts.items()} == {
            name: expected[name].tobytes() for name in expected
        }
        assert bundle.labels(found) == bundle.labels(signature)


def bundle_of(kind):
    """A small bundle of a kind."""
    if kind == "mixture":
        return BUNDLE
    if kind == "allocation":
        return random_bundle(DENSE, [np.array(DENSE.exists)] * 2)
    if kind == "alignment":
        return bundle_from_networks(aligned()[0], training={})
    module, examples, classes = stranger("residual")
    return wrap(module, examples(2), classes=classes).bundle()


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_or_its_copy_is_its_smallest_part(kind) -> None:
    """Of every kind: a file is never empty, and what is left resolves to the same parts."""
    bundle = bundle_of(kind)
    for base in bundle.signatures.values():
        copy = base.replace(parts=base.parts, base=base.digest)
        for given in (base, copy):
            small = reduced(bundle, given)
            assert {*small.parts} in ({bundle.kind.smallest}, {"logits.weight", "logits.bias"})
            found = bundle.resolve(small)
            assert found.labels == base.labels
            assert all(np.array_equal(found.parts[name], array) for name, array in bundle.resolve(base).parts.items())


@pytest.mark.trust
def test_names_of_classes_survive_a_fit_and_an_average(learner) -> None:
    """Classes that a user has renamed, with the base's logits layer, have these names in what is made of the signature."""
    mine = BASE.keep("mixture").replace(labels=("x", "y", "z"))
    x, labels = samples()
    found = personalize(learner, x, labels, starts=[mine], parts=("mixture",), statistics=False, steps=20)
    assert found.improved
    assert BUNDLE.labels(found.signature) == ("x", "y", "z")
    assert BUNDLE.labels(average(BUNDLE, [mine, found.signature])) == ("x", "y", "z")


@pytest.mark.trust
def test_an_average_matches_classes_that_are_only_named_in_another_order() -> None:
    """Two users with the base's logits layer, one of whom calls its rows c, b, a: rows are averaged by name."""
    plain = BASE.keep("mixture")
    turned = plain.replace(labels=tuple(reversed(BASE.labels)))
    found = BUNDLE.resolve(average(BUNDLE, [plain, turned])).parts["logits.weight"]
    weight = BASE.parts["logits.weight"]
    assert np.allclose(found, (weight + weight[::-1]) / 2)


@pytest.mark.trust
def test_a_fit_from_float16_is_float32(learner) -> None:
    """What was scored is what comes back: no number is rounded to a half after the scores were taken."""
    x, labels = samples()
    found = personalize(learner, x, labels, starts=[BASE.to("float16")], parts=FULL, statistics=False, steps=30)
    assert found.improved
    assert found.signature.precision == "float32"
    head = found.signature.parts["logits.weight"]
    assert not np.array_equal(head, head.astype(np.float16))
    assert Signature.decode(found.signature.encode()).precision == "float32"


@pytest.mark.trust
def test_an_adapter_from_float16_answers_with_what_it_saves(kept, tmp_path) -> None:
    """From a float16 start: float32 signatures, and the file predicts the answers to the last bit."""
    x = np.array(digits()[0][:24]) * np.float32(0.3) + np.float32(0.4)
    adapter = kept.adapter(kept.signature("plain").to("float16"), directory=tmp_path)
    answers = adapter(x)
    assert adapter.last.event == "update"
    assert adapter.signature.precision == "float32"
    saved = Signature.load(tmp_path / f"{adapter.signature.digest}.safetensors")
    assert np.array_equal(kept.predict(x, saved), answers)


@pytest.mark.trust
@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
def test_one_sample_of_each_class_stores_no_bn(affine) -> None:
    """γ and β do not move then, and so they are not in the file, whoever holds them; what is inherited is what was scored."""
    bundle = make_bundle(dataclasses.replace(SMALL, affine=affine), seed=1)
    learner = MixtureLearner(bundle, training_graphs(bundle.spec), threads=1)
    x, labels = np.zeros((3, *SMALL.input_shape), dtype=np.float32), np.arange(3)
    x[0, 0, :, :4], x[1, 0, :4], x[2, 0, ::2] = 4, -4, 4
    found = personalize(learner, x, labels, starts=[bundle.signatures["a"]], parts=FULL, statistics=False, steps=100)
    assert found.improved
    assert set(found.signature.parts) == {"mixture", "logits.weight", "logits.bias"}
    logits = learner.logits(Point(bundle.resolve(found.signature).parts), x)
    assert (logits.argmax(axis=1) == labels).mean() == pytest.approx(found.after.accuracy)


@pytest.mark.trust
def test_a_users_own_start_keeps_its_parts_and_no_others(learner) -> None:
    """A fit of γ and β: the user's mixture and logits layer stay, what is the base's is not copied along."""
    x, labels = samples()
    found = personalize(learner, x, labels, starts=[user()], parts=("bn",), statistics=False, steps=20)
    assert found.improved
    assert set(found.signature.parts) == {"mixture", "bn.affine", "logits.weight", "logits.bias"}
    for name in ("mixture", "logits.weight"):
        assert np.array_equal(found.signature.parts[name], user().parts[name])
    assert found.signature.base == BASE.digest


@pytest.mark.trust
def test_an_adapter_stores_what_moved(kept) -> None:
    """One sample at a time moves statistics alone: γ and β are not in the signature; nothing moved is no update."""
    adapter = kept.adapter(kept.signature("plain"))
    x = np.array(digits()[0][:3]) * np.float32(0.3) + np.float32(0.4)
    for sample in x:
        adapter(sample[None])
    assert set(adapter.signature.parts) == {"bn.statistics"}
    still = kept.adapter(kept.signature("plain"), method="t3a", supports=1)
    still(x)
    assert set(still.signature.parts) == {"logits.weight", "logits.bias"}


@pytest.mark.trust
@pytest.mark.parametrize(
    "words",
    [("personalize", "--parts", "mixture", "--steps", "1"), ("adapt", "--method", "lame")],
    ids=["personalize", "adapt"],
)
def test_nothing_moved_is_less_than_a_kilobyte(kept, tmp_path, capsys, words) -> None:
    """A command that found nothing better writes a mixture that inherits the rest, and predicts the same to the last bit."""
    images, labels = digits()
    rows = np.concatenate([np.flatnonzero(labels == label)[:2] for label in range(10)])
    np.savez(tmp_path / "clean.npz", x=images[rows], labels=labels[rows].astype(str))
    out = tmp_path / "me.safetensors"
    verb, *rest = words
    assert main([verb, str(KEPT), "--data", str(tmp_path / "clean.npz"), "--task", "plain", "-o", str(out), *rest]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert not summary.get("improved")
    assert out.stat().st_size == summary["size_bytes"] < 1024
    base = kept.signature("plain")
    assert np.array_equal(kept.predict(images[:8], Signature.load(out)), kept.predict(images[:8], base))
    assert Signature.load(out).parent == base.digest


@pytest.mark.trust
def test_a_change_is_drawn_from_what_it_is_said_to_be(monkeypatch, tmp_path) -> None:
    """A signature made from another user's: what changed from that one where it is given, and else from the base, by that name."""
    from isoform.runtime.commands import figure

    drawn, bundle = {}, make_bundle(SMALL)
    monkeypatch.setattr(figure.Bundle, "load", lambda path: bundle)
    monkeypatch.setattr(figure, "save_figure", lambda picture, path: drawn.update(picture=picture))
    first = BASE.keep("mixture").replace(parts={"mixture": BASE.parts["mixture"] + np.eye(3, 2, dtype=np.float32)})
    second = first.replace(created="later")
    for name, signature in (("first", first), ("second", second)):
        signature.save(tmp_path / f"{name}.safetensors")
    titles = []
    for names in (("second",), ("first", "second")):
        given = [tmp_path / f"{name}.safetensors" for name in names]
        figure.run_figure(
            argparse.Namespace(
                bundle=tmp_path,
                signature=given,
                trained=False,
                view=None,
                sort=False,
                task=None,
                output=tmp_path / "x.png",
            )
        )
        titles.append([axis.get_title("left") for axis in drawn["picture"].axes])
    assert any(title.startswith("second - its base: 0.") for title in titles[0])
    assert "second - its start: 0.000" in titles[1]
