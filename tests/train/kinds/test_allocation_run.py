"""Training of kind ``allocation``, by recipe: what is learned, what is fixed, what is recorded, and that a killed run resumes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from resumed import whole_and_resumed

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime
from isoform.runtime.cli import main
from isoform.runtime.errors import RecipeError, SpecError
from isoform.runtime.formats.bundle import Bundle
from isoform.train.data.load import load_task
from isoform.train.kinds.allocation.recipe import AllocationRecipe
from isoform.train.kinds.allocation.run import AllocationRun
from isoform.train.loop import train
from isoform.train.recipe import Recipe, read_recipe

RECIPE = """
kind = "allocation"
steps = 40
batch = 16
threads = 1
[data]
input_shape = [1, 8, 8]
shift = 0
[network]
channels = 4
stem = true
components = ["2 conv3x3", "maxpool3x3"]
[[layers]]
stride = 2
[[layers]]
components = ["conv3x3", "identity"]
[allocation]
budget = 0.5
entropy = 0.01
[optimizer]
lr = 0.01
l2 = 1e-4
dropout = 0.2
clip = 10.0
[tasks.plain]
data = "digits"
[tasks.turned]
data = "digits"
domain = "turned"
"""


@pytest.fixture
def file(tmp_path):
    """The recipe as a file."""
    (tmp_path / "modular.toml").write_text(RECIPE)
    return tmp_path / "modular.toml"


def of(file, **fields):
    """The recipe and its data, with some fields changed."""
    recipe = read_recipe(str(file), {name.replace("__", "."): str(value) for name, value in fields.items()})
    return recipe, {name: load_task(task, recipe.data, root=None) for name, task in recipe.tasks.items()}


def test_a_recipe_is_read(file) -> None:
    """Repetitions are written out, layers without components take the network's, and the resolved recipe reads back equal."""
    recipe, _ = of(file)
    assert isinstance(recipe, AllocationRecipe)
    spec = recipe.spec(mean=(0.3,), std=(0.2,))
    assert [layer.components for layer in spec.layers] == [
        ("conv3x3", "conv3x3", "maxpool3x3"),
        ("conv3x3", "identity"),
    ]
    assert spec.mean == (0.3,)
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.digest() == recipe.digest()
    plain = dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, normalise=False))
    assert plain.spec(mean=(0.3,), std=(0.2,)).mean == (0.0,)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('[[layers]]\ncomponents = ["conv3x3", "identity"]\n', "[[layers]]\nstride = 'two'\n", "layers, number 1, stride is 'two'"),
        ('components = ["2 conv3x3", "maxpool3x3"]', "components = 'conv3x3'", "network, components is 'conv3x3', but a list of texts"),
        ('components = ["2 conv3x3", "maxpool3x3"]', "components = [3]", "components, number 0 is 3, but a text"),
        ('components = ["2 conv3x3", "maxpool3x3"]', "", "layer 0 has no components"),
        ("[[layers]]\nstride = 2\n", "[layers]\nstride = 2\n", "modular.toml is not TOML|layers is"),
        ("budget = 0.5", "budget = 1.5", "budget is 1.5, but 0 to 1"),
        ("budget = 0.5", "initial = 1.0", "initial is 1.0"),
        ("budget = 0.5", "temperature = 0.1", "temperature is 0.1, but 0.5 to"),
        ("budget = 0.5", "routing = 'random'", "routing is 'random'"),
        ("dropout = 0.2", "dropout = 1.0", "dropout is 1.0"),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe(file, old, new, message) -> None:
    """One line names the place."""
    assert old in RECIPE
    file.write_text(RECIPE.replace(old, new))
    with pytest.raises(RecipeError, match=message):
        read_recipe(str(file), {})


def test_no_layers(file) -> None:
    """A network needs a modular layer."""
    file.write_text(RECIPE.split("[[layers]]")[0] + RECIPE[RECIPE.index("[allocation]") :])
    with pytest.raises(RecipeError, match="no modular layer"):
        read_recipe(str(file), {})


def test_a_killed_run_resumes(file, tmp_path) -> None:
    """Temperature, probabilities and their record go on where they were: the same bytes as without the kill."""
    recipe, datasets = of(file)
    whole = whole_and_resumed(recipe, datasets, tmp_path, killed_at=23)
    record = whole.training["record"]
    assert record["steps"][0] == 0
    assert record["steps"] == [*range(41)]  # fewer steps than the record has room for: every one
    assert {len(texts) for texts in record["probabilities"].values()} == {len(record["steps"])}
    first = bytes.fromhex(record["probabilities"]["plain"][0])
    assert set(first) == {128, 0}  # ½ everywhere, and 0 where the second layer has no third component
    assert set(bytes.fromhex(record["probabilities"]["plain"][-1])) != {128, 0}


def test_fixed_routings(file) -> None:
    """All tasks use everything, or each its own components; then there is nothing to learn about masks, and nothing to record."""
    for routing, masks in (("shared", [["111", "110"]] * 2), ("separate", [["101", "100"], ["010", "010"]])):
        recipe, datasets = of(file, allocation__routing=routing)
        run = AllocationRun(recipe, datasets)
        assert [*run.told()["allocation"].values()] == masks
        assert [len(group.parameters) for group in run.groups()][1] == 0
        assert run.bundle({}).training["record"] == {}
        assert run.loss(0, {0: (torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64))}).total.isfinite()
    recipe, datasets = of(file, allocation__routing="separate")
    three = {**datasets, "third": datasets["plain"]}
    with pytest.raises(
        SpecError, match="a layer has 2 components, but without sharing each of the 3 tasks needs its own"
    ):
        AllocationRun(recipe, three)


def test_the_budget_is_kept(file, tmp_path) -> None:
    """With a strong penalty the share of components in use falls to the budget; without one it does not."""
    shares = []
    for weight in (0, 30):
        recipe, datasets = of(
            file,
            steps=120,
            allocation__budget_weight=weight,
            optimizer__allocation_lr_ratio=10,
            allocation__initial=0.8,
        )
        shares.append(train(recipe, datasets, checkpoint=tmp_path / f"{weight}").training["active_share"])
    assert shares[1] <= 0.6 < shares[0]


def test_what_the_loss_has(file) -> None:
    """L2 counts weights and γ and not biases; penalties grow as their formulas say; a step is one update per task in some order."""
    recipe, datasets = of(file)
    run = AllocationRun(recipe, datasets)
    decayed = {id(weight) for weight in run.network.decayed()}
    names = {name: parameter for name, parameter in run.network.named_parameters() if id(parameter) in decayed}
    assert "heads" in names
    assert "biases" not in names
    assert "router.logits" not in names
    batch = {0: (torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64))}
    torch.manual_seed(0)
    loss = run.loss(39, batch)
    l2 = 1e-4 / 2 * sum(float(weight.detach().square().sum()) for weight in run.network.decayed())
    entropies = 0.01 * 39 / 40 * 5 * np.log(2)
    assert loss.total.item() - loss.figures["loss"] == pytest.approx(
        l2 + entropies, rel=1e-3
    )  # at ½ the budget costs nothing
    assert loss.clip == 10
    torch.manual_seed(0)
    assert sorted(map(tuple, run.begin(0, None))) == [(0,), (1,)]


def test_by_command(file, tmp_path, capsys) -> None:
    """Trained, compiled, predicted and drawn; the summary names the masks and leaves the record out."""
    bundle = tmp_path / "bundle"
    assert main(["train", str(file), "-o", str(bundle)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["allocation"]) == {"plain", "turned"}
    assert "record" not in told
    assert compile_bundle(bundle)["tasks"]["plain"]["verified"]["torch_fast"] < 1e-5
    assert "probabilities" in Bundle.load(bundle).training["record"]
    with Runtime.open(bundle) as runtime:
        assert runtime.predict(np.zeros((2, 1, 8, 8)), runtime.signature("turned")).shape == (2, 10)
    assert main(["figure", str(bundle), "--view", "history", "-o", str(tmp_path / "history.svg")]) == 0
    assert main(["inspect", str(bundle / "signatures" / "plain.safetensors"), "--json"]) == 0
    assert "allocation" in capsys.readouterr().out


def test_the_shipped_recipe() -> None:
    """The 4-MNISTs have 3,080 shared weights and biases with four logits layers, as the paper's."""
    recipe = read_recipe("mnist4", {})
    spec = recipe.spec(mean=(0.0,), std=(1.0,))
    assert (spec.embedding, len(recipe.tasks)) == (36, 4)
    assert sum(int(np.prod(shape)) for shape in spec.template_shapes.values()) + 4 * 370 == 3080
