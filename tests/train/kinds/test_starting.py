"""New tasks on the templates of a bundle: transfer learning."""

import dataclasses

import numpy as np
import pytest
from resumed import whole_and_resumed

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime, Signature
from isoform.runtime.errors import BundleError, RecipeError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.mixture.directions import mixing, template_sequence
from isoform.runtime.kinds.mixture.reference import reference_logits
from isoform.train.data.load import load_tasks
from isoform.train.loop import train
from isoform.train.recipe import Recipe, read_recipe

SMALL = {
    "steps": "50",
    "network.layers": "3",
    "batch": "16",
    "threads": "1",
    "mixture.entropy": "20",
    "network.bn_directions": "0",
}


@pytest.fixture(scope="module", params=["layer", "mixed"])
def base(request, tmp_path_factory):
    """A compiled bundle of two domains of digits, wherever γ and β are."""
    folder = tmp_path_factory.mktemp("base")
    recipe = read_recipe("digits", {**SMALL, "network.affine": request.param})
    recipe = dataclasses.replace(recipe, tasks={name: recipe.tasks[name] for name in ("plain", "blurred")})
    datasets = load_tasks(recipe.tasks, recipe.data, root=None)
    train(recipe, datasets, checkpoint=folder / "state").write(folder / "bundle")
    compile_bundle(folder / "bundle", datasets=datasets, tau=1.0)  # after so few steps layers are still mixed
    return folder / "bundle"


def recipe_on(base, steps=30, mixture=None, **start) -> Recipe:
    """A recipe for a new domain of digits."""
    return Recipe.from_json({
        "steps": steps, "batch": 16, "threads": 1, "data": {"input_shape": [1, 32, 32]}, "mixture": {"entropy": 0.0, **(mixture or {})},
        "start": {"bundle": str(base), "signature": "plain", **start}, "tasks": {"slanted": {"data": "digits", "domain": "slanted"}},
    })  # fmt: skip


def trained(recipe, folder):
    """The bundle, and its data."""
    datasets = load_tasks(recipe.tasks, recipe.data, root=None)
    folder.mkdir(exist_ok=True)
    return train(recipe, datasets, checkpoint=folder / "state"), datasets


def test_a_new_task_is_a_signature_on_the_same_templates(base, tmp_path) -> None:
    """Templates stay, bit for bit; the compiled bundle that was there runs the new task's file, and the new bundle compiles; better than before."""
    bundle, datasets = trained(recipe_on(base), tmp_path)
    signature, test = bundle.signatures["slanted"], datasets["slanted"].test
    bundle.write(tmp_path / "new")
    with Runtime.open(base) as runtime:
        assert runtime.bundle.digest == bundle.digest
        for name, tensor in bundle.tensors.items():
            np.testing.assert_array_equal(tensor, runtime.bundle.tensors[name], err_msg=name)
        before = (runtime.predict(test.images, runtime.signature("plain")).argmax(1) == test.labels).mean()
        # known to the old bundle by one of its tasks, whose classes it has
        again = Signature.load(tmp_path / "new" / "signatures" / "slanted.safetensors")
        there = dataclasses.replace(again, task="plain")
        answers = runtime.predict(test.images, there)
    assert (answers.argmax(1) == test.labels).mean() == pytest.approx(
        bundle.training["test_accuracy"]["slanted"], abs=0.01
    )
    assert bundle.training["test_accuracy"]["slanted"] > before + 0.1
    compile_bundle(tmp_path / "new", datasets=datasets, tau=1.0)
    with Runtime.open(tmp_path / "new") as runtime:
        np.testing.assert_allclose(
            runtime.predict(test.images, runtime.signature("slanted")), answers, rtol=0, atol=1e-3
        )
    assert signature.labels == tuple("0123456789")


def test_what_is_trained_is_what_changes(base, tmp_path) -> None:
    """Every combination leaves the rest as it was; BN's statistics stay only where logits layers alone are trained. γ and β that are mixed from
    the templates follow ξ until they are trained themselves.
    """
    start = Bundle.load(base, with_compiled=False)
    source = start.resolve(start.signatures["plain"]).parts
    names = {"mixture": ["mixture"], "bn": ["bn.affine"], "head": ["logits.weight", "logits.bias"]}
    for trains in (["head"], ["bn", "head"], ["mixture"], ["mixture", "bn", "head"]):
        bundle, _ = trained(recipe_on(base, 3, trains=trains), tmp_path / "-".join(trains))
        parts = bundle.resolve(bundle.signatures["slanted"]).parts
        moving = {name for part in trains for name in names[part]} | (
            {"bn.statistics"} if trains != ["head"] else set()
        )
        if start.network.spec.affine == "mixed" and "mixture" in trains:
            moving.add("bn.affine")
        for name, array in parts.items():
            assert np.array_equal(array, source[name]) == (name not in moving), (trains, name)
        assert bundle.digest == start.digest
    bundle, _ = trained(recipe_on(base, 3, trains=["templates", "mixture", "bn", "head"]), tmp_path / "all")
    assert bundle.digest != start.digest
    random, _ = trained(recipe_on(base, 1, random=True), tmp_path / "random")
    assert np.abs(random.signatures["slanted"].parts["mixture"]).max() < 0.6 < np.abs(source["mixture"]).max()
    assert random.digest == start.digest


def test_runs_that_start_from_a_bundle_are_resumed(base, tmp_path) -> None:
    """To the same bits; the record names the templates and the signature, and a bundle that has changed is another run."""
    recipe = recipe_on(base, 6)
    datasets = load_tasks(recipe.tasks, recipe.data, root=None)
    bundle = whole_and_resumed(recipe, datasets, tmp_path, killed_at=3)
    told = bundle.training["recipe"]["start"]
    assert (told["signature"], len(told["digest"])) == ("plain", 64)
    assert recipe_on(base, 6, digest=told["digest"]).pinned().start.digest == told["digest"]
    with pytest.raises(RecipeError, match="this is another bundle"):
        recipe_on(base, 6, signature="blurred", digest=told["digest"]).pinned()


def test_starts_that_cannot_be(base, tmp_path) -> None:
    """One line each."""
    good = recipe_on(base)
    datasets = load_tasks(good.tasks, good.data, root=None)
    for recipe, error, message in (
        (recipe_on(base, signature=""), RecipeError, "has 2 tasks; choose one with start.signature: plain, blurred"),
        (recipe_on(tmp_path / "none"), BundleError, "none"), (recipe_on(base, signature="edges"), BundleError, "no task 'edges'"),
        (dataclasses.replace(good, data=dataclasses.replace(good.data, input_shape=(1, 16, 16))), RecipeError, "samples have the shape"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            train(recipe, datasets, checkpoint=tmp_path / "state")
    for change, message in (
        ({"start": {"bundle": ""}}, "no bundle"), ({"start": {"bundle": "b", "trains": ["all"]}}, "one or more of mixture, bn, head, templates"),
        ({"start": {"bundle": "b", "trains": []}}, "one or more of"), ({"start": {"bundle": "b"}, "network": {"layers": 8}}, "leave out the table network"),
        ({"start": {"bundle": "b", "trains": ["bn", "bn"]}}, "one or more of"),
        ({"start": {"bundle": "b", "trains": ["head"], "random": True}}, "random mixture weights have to be trained"),
        ({"start": {"bundle": "b", "trains": ["head"]}, "mixture": {"temperature": 2.0}}, "mixture.temperature is 2.0, but .* are not trained"),
        ({"start": {"bundle": "b", "trains": ["head"]}, "mixture": {"signature": "discrete"}}, "mixture.signature is 'discrete', but .* not trained"),
        ({"mixture": {"initial": "cyclic"}}, "mixture.initial is 'cyclic', but mixture weights start from"),
        ({"mixture": {"signature": "cyclic"}}, "with start it is learned, discrete or free"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=message):
            Recipe.from_json({**good.to_json(), **change})


def test_new_tasks_have_classes_of_their_own(base, tmp_path) -> None:
    """Another number of classes, or other names, get new logits layers, which have to be trained; two tasks of different numbers go together."""
    recipe = recipe_on(base, 2)
    (plain,) = load_tasks(recipe.tasks, recipe.data, root=None).values()

    def some(count, names):
        halves = [dataclasses.replace(half, images=half.images[rows], labels=half.labels[rows])
                  for half in (plain.train, plain.test) for rows in (half.labels < count,)]  # fmt: skip
        return dataclasses.replace(plain, train=halves[0], test=halves[1], classes=tuple(names))

    datasets = {"three": some(3, "abc"), "ten": some(10, "abcdefghij")}
    recipe = dataclasses.replace(recipe, tasks=dict.fromkeys(datasets, recipe.tasks["slanted"]))
    bundle = train(recipe, datasets, checkpoint=tmp_path / "state")
    assert {name: signature.labels for name, signature in bundle.signatures.items()} == {
        "three": tuple("abc"),
        "ten": tuple("abcdefghij"),
    }
    assert bundle.digest == Bundle.load(base).digest
    without = dataclasses.replace(recipe, start=dataclasses.replace(recipe.start, trains=("mixture",)))
    with pytest.raises(RecipeError, match="has no 'head', but task 'three' has other classes than 'plain'"):
        train(without, datasets, checkpoint=tmp_path / "other")


def test_free_and_discrete_starts(tmp_path) -> None:
    """A free source keeps its coefficients as a free start and gives them up as a discrete one; bundles answer as the network that was trained."""
    recipe = read_recipe("digits", {**SMALL, "steps": "40", "mixture.signature": "free"})
    recipe = dataclasses.replace(recipe, tasks={"plain": recipe.tasks["plain"]})
    free = train(recipe, load_tasks(recipe.tasks, recipe.data, root=None), checkpoint=tmp_path / "state")
    free.write(tmp_path / "free")
    source = mixing(free.signatures["plain"].parts)[:, :4]
    for signature in ("free", "discrete", "learned"):
        bundle, datasets = trained(recipe_on(tmp_path / "free", 1, {"signature": signature}), tmp_path / signature)
        parts = bundle.resolve(bundle.signatures["slanted"]).parts
        found = mixing(parts)[:, :4]
        if signature == "discrete":
            assert None not in template_sequence(parts)
        else:
            np.testing.assert_allclose(found, source, atol=0.05)
        test = datasets["slanted"].test
        answers = reference_logits(bundle.spec, bundle.tensors, parts, test.images[:200]).argmax(1)
        whole = bundle.training["test_accuracy"]["slanted"]
        assert (answers == test.labels[:200]).mean() == pytest.approx(whole, abs=0.1)
