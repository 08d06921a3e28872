"""A domain without labels: only its mixture weights move, towards features like those of the labelled domains."""

import dataclasses

import numpy as np
import pytest
import torch
from resumed import whole_and_resumed

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime
from isoform.runtime.errors import RecipeError
from isoform.train.data.load import load_tasks
from isoform.train.data.samples import Split
from isoform.train.kind import trainer_of
from isoform.train.kinds.mixture import discrepancies
from isoform.train.loop import train
from isoform.train.recipe import Recipe

METHODS = ("adversarial", "moments", "information")


def recipe_for(method="adversarial", steps=12, tasks=("plain", "blurred", "slanted"), **changes) -> Recipe:
    """Domains of digits, the last one without labels."""
    value = {
        "steps": steps, "batch": 16, "threads": 1, "data": {"input_shape": [1, 32, 32]}, "network": {"layers": 3, "templates": 4, "bn_directions": 0},
        "adaptation": {"target": tasks[-1], "method": method, "begin": 0.5, "hidden": 16}, "mixture": {"entropy": 1.0},
        "tasks": {name: {"data": "digits", "domain": name, "limit": 200} for name in tasks},
    }  # fmt: skip
    for field, entry in changes.items():
        section, _, name = field.partition("__")
        value[section] = {**value.get(section, {}), name: entry} if name else entry
    return Recipe.from_json(value)


def loaded(recipe):
    """Its data sets."""
    return load_tasks(recipe.tasks, recipe.data, root=None)


def first_step(method, weight=1.0):
    """A run in the step in which it begins to adapt, and a function that computes the loss of a batch."""
    recipe = recipe_for(method, adaptation__weight=weight)
    run = trainer_of(recipe).start(recipe, loaded(recipe))
    with torch.no_grad():
        run.begin(6, torch.optim.SGD(run.network.parameters(), lr=0.0))
        run.network.offset += torch.arange(4.0)
    draws = torch.Generator().manual_seed(1)
    batches = {
        task: (torch.rand(16, 1, 32, 32, generator=draws) ** (1 + task), torch.arange(16) % 10) for task in range(3)
    }
    return run, lambda: run.loss(6, batches)


def gradients(method, weight):
    """The gradients of that step by name of the parameter."""
    run, loss = first_step(method, weight)
    loss().total.backward()
    return {name: p.grad for name, p in run.network.named_parameters()}


@pytest.mark.parametrize("method", METHODS)
def test_the_target_moves_only_its_mixture_weights(method) -> None:
    """A hundred times the weight of its loss changes no gradient but that of its own logits' offset."""
    once, more = gradients(method, 1.0), gradients(method, 100.0)
    for name, gradient in once.items():
        if name == "offset":
            assert (more[name] - gradient).abs().max() > 1e-4
        elif gradient is not None:
            torch.testing.assert_close(gradient, more[name])
    judged, other = once["discriminator.0.weight"], once["second_weight"]
    assert (judged is not None and bool(judged.abs().sum() > 0)) == (method == "adversarial")
    assert (other is not None and bool(other.abs().sum() > 0)) == (method == "moments")


@pytest.mark.parametrize("method", METHODS)
def test_both_sides_lower_what_is_theirs(method) -> None:
    """On one batch: steps of the offset lower the discrepancy; those of the discriminator, or of the second logits layer, the rest of the loss."""
    weight = 100.0  # beside which the entropy regulariser of ξ is small
    run, loss = first_step(method, weight)
    for names, of_target in ((("offset",), True), (("discriminator.", "second_"), False)):
        moved = [p for name, p in run.network.named_parameters() if name.startswith(names)]
        optimizer = torch.optim.SGD(moved, lr=0.05)

        def theirs(of_target: bool = of_target) -> float:
            found = loss()
            gap = found.figures["discrepancy"]
            return gap if of_target else found.total.item() - weight * gap

        before = theirs()
        for _ in range(20):
            run.network.zero_grad()
            loss().total.backward()
            optimizer.step()
        if of_target or method != "information":  # which has no opponent
            assert theirs() < before - 1e-5


def test_the_sources_are_what_was_trained() -> None:
    """The end of the run adds the offset to the target's logits, and leaves every source as it was."""
    run, _ = first_step("information")
    before = run.network.xi().detach().clone()
    run.finish()
    torch.testing.assert_close(run.network.xi(), before)
    assert not run.network.offset.any()


def test_labels_of_the_target_are_not_used(tmp_path) -> None:
    """Other labels give the same bundle, bit for bit; its test labels are only counted."""
    recipe = recipe_for("moments")
    datasets = loaded(recipe)
    half = datasets["slanted"].train
    other = dataclasses.replace(datasets["slanted"], train=Split(images=half.images, labels=(half.labels * 3 + 1) % 10))
    bundles = [
        train(recipe, found, checkpoint=tmp_path / f"state{place}")
        for place, found in enumerate((datasets, {**datasets, "slanted": other}))
    ]
    assert bundles[0].digest == bundles[1].digest
    assert bundles[0].signatures == bundles[1].signatures
    assert bundles[0].training["target"] == "slanted"
    assert bundles[0].training["adapted_numbers"] == 12


@pytest.mark.parametrize("method", METHODS)
def test_it_goes_on_where_it_was(method, tmp_path) -> None:
    """Killed while it adapts, and resumed to the same bits; all tasks have one logits layer, and the target mixture weights of its own."""
    recipe = recipe_for(method, tasks=("plain", "slanted"), steps=6)
    bundle = whole_and_resumed(recipe, loaded(recipe), tmp_path, killed_at=4)
    first, second = (bundle.signatures[name].parts for name in ("plain", "slanted"))
    np.testing.assert_array_equal(first["logits.weight"], second["logits.weight"])
    assert np.abs(first["mixture"] - second["mixture"]).max() > 1e-3


def test_before_it_begins_the_target_has_the_sources_mean(tmp_path) -> None:
    """And with ``begin`` 1 it always does."""
    recipe = recipe_for(adaptation__begin=1.0, steps=4)
    bundle = train(recipe, loaded(recipe), checkpoint=tmp_path / "state")
    logits = [bundle.signatures[name].parts["mixture"] for name in ("plain", "blurred", "slanted")]
    np.testing.assert_allclose(logits[2], (logits[0] + logits[1]) / 2, atol=1e-5)
    assert {entry["discrepancy"] for entry in bundle.training["history"]} == {0.0}


def test_the_runtime_swaps_what_was_adapted(tmp_path) -> None:
    """A domain in which the sources' signatures fail: with its own it is right far more often, in the compiled bundle too."""
    recipe = recipe_for("information", steps=120, tasks=("plain", "blurred", "low_contrast"))
    datasets = load_tasks(
        {name: dataclasses.replace(task, limit=0) for name, task in recipe.tasks.items()}, recipe.data, root=None
    )
    bundle = train(recipe, datasets, checkpoint=tmp_path / "state")
    bundle.write(tmp_path / "bundle")
    compile_bundle(tmp_path / "bundle", datasets=datasets, tau=1.0)
    test = datasets["low_contrast"].test
    with Runtime.open(tmp_path / "bundle") as runtime:
        right = {
            name: float((runtime.predict(test.images, runtime.signature(name)).argmax(1) == test.labels).mean())
            for name in recipe.tasks
        }
    assert right["low_contrast"] == pytest.approx(bundle.training["test_accuracy"]["low_contrast"], abs=0.02)
    assert right["low_contrast"] > max(right["plain"], right["blurred"]) + 0.1, right


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adaptation": {"method": "moments"}}, "adaptation has no target"),
        (
            {"adaptation__target": "inverted"},
            "adaptation.target is 'inverted', but one of two or more tasks was expected: plain, blurred, slanted",
        ),
        (
            {"validation": {"patience": 5}, "data__validation_fraction": 0.1},
            "adaptation goes without a table validation, because the best state would",
        ),
        ({"accumulate": 2}, "adaptation goes without accumulate, because moments are of a whole batch"),
        (
            {"data__augment": {"mixup": 0.2}},
            "adaptation goes without data.augment.mixup, because it would mix the target's labels",
        ),
        ({"start": {"bundle": "b"}}, "adaptation goes without a table start"),
        ({"network__affine": "task"}, "adaptation goes without network.affine 'task', because nothing would train"),
    ],
)
def test_recipes_that_cannot_be_are_refused(changes, message) -> None:
    """In one line, before data are read."""
    if "start" in changes:
        value = recipe_for().to_json() | changes
        del value["network"]
        with pytest.raises(RecipeError, match=message):
            Recipe.from_json(value)
        return
    with pytest.raises(RecipeError, match=message):
        recipe_for(**changes)


def test_a_target_alone_is_refused() -> None:
    """There is nothing to be like."""
    with pytest.raises(
        RecipeError, match="adaptation.target is 'slanted', but one of two or more tasks was expected: slanted"
    ):
        recipe_for(tasks=("slanted",))


def test_other_classes_and_fixed_mixtures_are_refused(tmp_path) -> None:
    """When the data are known, and before a step."""
    recipe = recipe_for(mixture__signature="cyclic")
    with pytest.raises(
        RecipeError, match="mixture.signature is 'cyclic', but with adaptation it is learned or discrete"
    ):
        train(recipe, loaded(recipe), checkpoint=tmp_path / "state")
    recipe = recipe_for()
    datasets = loaded(recipe)
    datasets["plain"] = dataclasses.replace(datasets["plain"], classes=tuple("abcdefghij"))
    with pytest.raises(
        RecipeError,
        match="the same classes, but 'plain' and 'slanted' have 10 and 10, with other names or in another order",
    ):
        train(recipe, datasets, checkpoint=tmp_path / "state")


def test_losses_by_hand() -> None:
    """Standardised features, moments, disagreement and information of small numbers."""
    sources = [torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[4.0, 5.0], [6.0, 7.0]])]
    plain, target = discrepancies.standardised(sources, torch.tensor([[3.0, 4.0], [3.0, 4.0]]))
    torch.testing.assert_close(torch.cat(plain).mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat(plain).std(0), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(target, torch.zeros(2, 2), atol=1e-6, rtol=0)
    # means 1 and 2 apart, mean squares 1 and 4 apart, in one feature
    found = discrepancies.moment_distance([torch.ones(4, 1), 2 * torch.ones(4, 1)], torch.zeros(4, 1))
    assert found.item() == pytest.approx((1 + 1 + 2 + 4) / 4)
    assert discrepancies.disagreement(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])).item() == pytest.approx(
        1
    )
    sure = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert discrepancies.information(sure).item() == pytest.approx(-np.log(2), abs=1e-5)
    assert discrepancies.information(sure[:1].repeat(2, 1)).item() == pytest.approx(0, abs=1e-5)
    assert discrepancies.information(torch.zeros(3, 2)).item() == pytest.approx(0, abs=1e-5)
