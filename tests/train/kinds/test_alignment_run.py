"""Training of kind ``alignment``, by recipe: generations, the best state, what is recorded, texts, and that a killed run resumes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from resumed import whole_and_resumed

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime
from isoform.runtime.cli import main
from isoform.runtime.commands.figures.sharing import draw_layers, draw_modules, read_sharing
from isoform.runtime.errors import RecipeError, SpecError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.train.data.load import load_task
from isoform.train.data.samples import Dataset, Split
from isoform.train.kinds.alignment.recipe import AlignmentRecipe
from isoform.train.kinds.alignment.run import AlignmentRun
from isoform.train.kinds.alignment.sharing import between_layers, subsets
from isoform.train.loop import train
from isoform.train.recipe import Recipe, read_recipe

RECIPE = """
kind = "alignment"
steps = 24
batch = 16
threads = 1
[data]
input_shape = [1, 16, 16]
shift = 0
validation_fraction = 0.1
[search]
generation = 4
first = 1
final = 2
[networks.plain]
type = "lenet"
[networks.turned]
type = "wrn"
depth = 10
[tasks.plain]
data = "digits"
limit = 200
[tasks.turned]
data = "digits"
domain = "turned"
limit = 200
"""


@pytest.fixture
def file(tmp_path):
    """The recipe as a file."""
    (tmp_path / "aligned.toml").write_text(RECIPE)
    return tmp_path / "aligned.toml"


def of(file, **fields):
    """The recipe and its data, with some fields changed."""
    recipe = read_recipe(str(file), {name.replace("__", "."): str(value) for name, value in fields.items()})
    return recipe, {name: load_task(task, recipe.data, root=None) for name, task in recipe.tasks.items()}


def test_a_recipe_is_read(file) -> None:
    """Read back from JSON it is equal; validation samples are held out of the training ones, evenly over classes."""
    recipe, datasets = of(file)
    assert isinstance(recipe, AlignmentRecipe)
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.digest() == recipe.digest()
    held = datasets["plain"].validation
    assert (len(held.labels), len(datasets["plain"].train.labels)) == (20, 180)
    assert (np.bincount(held.labels) == 2).all()
    rows = {row.tobytes() for row in datasets["plain"].train.images}
    assert not rows & {row.tobytes() for row in held.images}
    without, _ = of(file, data__validation_fraction=0)
    assert "validation_fraction" not in without.to_json()["data"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('[networks.turned]\ntype = "wrn"\ndepth = 10\n', "", r"task 'turned' has no network; add a table such as \[networks.turned\]"),
        ("[networks.turned]", "[networks.other]", "task 'turned' has no network"),
        ('[networks.plain]\ntype = "lenet"', '[networks.x]\ntype = "lenet"\n[networks.plain]\ntype = "lenet"', "network of 'x', but no such task"),
        ('type = "lenet"', 'type = "vgg"', "type is 'vgg', but 'lenet' or 'wrn'"),
        ("final = 2", "final = 5", "search.first and search.final are 1 and 5 generations, but 24 steps have 6"),
        ("generation = 4", "share = 2.0", "share is 2.0, but 0 to 1"),
        ("validation_fraction = 0.1", "validation_fraction = 1.0", "validation_fraction is 1.0"),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe(file, old, new, message) -> None:
    """One line names the place."""
    assert old in RECIPE
    file.write_text(RECIPE.replace(old, new))
    with pytest.raises(RecipeError, match=message):
        read_recipe(str(file), {})


def test_sizes_that_do_not_fit(file) -> None:
    """Before the first step."""
    recipe, datasets = of(file, data__input_shape="[1, 8, 8]")
    with pytest.raises(SpecError, match="8×8 pixels are too small for LeNet"):
        AlignmentRun(recipe, datasets)
    recipe, datasets = of(file)
    deep = dataclasses.replace(recipe.networks["turned"], depth=12)
    with pytest.raises(SpecError, match="10, 16, 22, … layers, not 12"):
        AlignmentRun(dataclasses.replace(recipe, networks={**recipe.networks, "turned": deep}), datasets)


def test_a_killed_run_resumes(file, tmp_path) -> None:
    """Alignment, candidates, scores and the best state go on where they were: the same bytes as without the kill."""
    recipe, datasets = of(file)
    whole = whole_and_resumed(recipe, datasets, tmp_path, killed_at=14)  # within a generation
    sharing = read_sharing(whole.training)
    assert sharing.generations == [0, 1, 2, 3, 4, 5, 6]
    totals = np.sum([*sharing.shared.values()], axis=0)
    assert totals[0] == totals[1]  # no challengers in the first generation
    assert (np.diff(totals) <= 0).all()
    assert totals[-3] < totals[1]


def test_generations(file) -> None:
    """Half of the locations are challenged between the first and the final ones; the best state by validation loss is what is kept."""
    recipe, datasets = of(file)
    run = AlignmentRun(recipe, datasets)
    blocks, optimizer = run.network.hypermodules, torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    seen = []
    for step in range(recipe.steps):
        run.begin(step, optimizer)
        seen.append(blocks.challenging)
    assert seen == [False] * 4 + [True] * 12 + [False] * 8
    run.begin(4, optimizer)
    assert len(blocks.places) == -(-len(blocks.alignment) // 2)
    run.finish()
    best = float(run.network.best.score)
    with torch.no_grad():
        for parameter in run.network.own_parameters():
            parameter.add_(1)  # much worse
    run.finish()
    assert float(run.network.best.score) == best
    assert run.told()["validation_loss"] == pytest.approx(-best, abs=1e-6)


def test_no_search(file, tmp_path) -> None:
    """With nothing challenged, every location keeps its own module: one task or several are networks of their own."""
    recipe, datasets = of(file, search__share=0, search__final=0, steps=8)
    bundle = train(recipe, datasets, checkpoint=tmp_path / "state")
    assert {*bundle.training["shared"]} == {"plain", "turned"}
    assert bundle.spec.hypermodules == 0


def test_texts(tmp_path) -> None:
    """A language model learns from every token of a window, and answers with the one that follows, beside a network of pictures."""
    rng, words = np.random.default_rng(0), tuple(f"w{number}" for number in range(12))

    def texts(count, seed):
        begin = np.random.default_rng(seed).integers(0, 12, count)
        rows = (begin[:, None] + np.arange(9)) % 12  # counts up
        return Split(images=rows[:, :8].astype(np.int64), labels=rows[:, 8].astype(np.int64))

    def pictures(count):
        labels = np.arange(count) % 2
        return Split(
            images=(labels[:, None, None, None] + rng.uniform(size=(count, 1, 12, 12))).astype("f"), labels=labels
        )

    datasets = {
        "counting": Dataset(train=texts(64, 1), test=texts(40, 2), classes=words),
        "light": Dataset(train=pictures(64), test=pictures(40), classes=("dark", "light")),
    }
    recipe = Recipe.from_json(
        {
            "kind": "alignment", "steps": 60, "batch": 16, "threads": 1, "data": {"shift": 0}, "search": {"generation": 5, "final": 6},
            "networks": {"counting": {"type": "lstm", "width": 32, "dropout": 0.0}, "light": {"type": "lenet"}},
            "optimizer": {"lr": 0.01}, "tasks": {name: {"data": "folder"} for name in datasets},
        }
    )  # fmt: skip
    bundle = train(recipe, datasets, checkpoint=tmp_path / "state")
    assert bundle.training["test_accuracy"]["counting"] >= 0.95
    bundle.write(tmp_path / "bundle")
    compile_bundle(tmp_path / "bundle", datasets=datasets)
    with Runtime.open(tmp_path / "bundle") as runtime:
        x, signature = datasets["counting"].test.images, runtime.signature("counting")
        assert (runtime.predict(x, signature).argmax(1) == datasets["counting"].test.labels).mean() >= 0.95
        assert runtime.input_of("counting").what == "tokens"


def test_commands(file, tmp_path, capsys) -> None:
    """Train, compile and draw: by file name, as a user does."""
    path = tmp_path / "bundle"
    main(["train", str(file), "-o", str(path)])
    main(["compile", str(path)])
    for view in ("layers", "modules", "signatures", "similarity"):
        main(["figure", str(path), "--view", view, "-o", str(tmp_path / f"{view}.svg")])
        assert (tmp_path / f"{view}.svg").stat().st_size > 1000
    main(["figure", str(path), "-o", str(tmp_path / "default.svg")])
    assert (tmp_path / "default.svg").read_text().count("shortcut") == (tmp_path / "layers.svg").read_text().count(
        "shortcut"
    )
    capsys.readouterr()
    bundle = Bundle.load(path)
    sharing = read_sharing(bundle.training)
    assert draw_modules(sharing).axes[0].get_xlabel() == "generation"
    assert len(draw_layers(sharing).axes[0].get_yticks()) == len(sharing.layers) == 11
    for damaged in (
        {},
        {"record": {**bundle.training["record"], "shared": []}},
        {"record": {**bundle.training["record"], "between": [1]}},
    ):
        with pytest.raises(UsageError, match="record of which modules"):
            read_sharing(damaged)


def test_who_shares_what() -> None:
    """Modules by exactly who uses them, and layers by how often they use the same one, against chance."""
    alignment = np.array([0, 0, 1, 2, 0, 3, 3, 3])
    assert subsets(alignment, {"a": slice(0, 4), "b": slice(4, 8)}) == {"a": 2, "a + b": 1, "b": 1}
    found = between_layers(alignment, [slice(0, 2), slice(2, 4), slice(4, 8)])
    chance = (3 * 2 + 3 * 2) / (8 * 7)
    assert found[0, 0] == pytest.approx(1 / chance)
    assert found[0, 1] == 0
    assert found[0, 2] == pytest.approx(2 / 8 / chance)
    assert found[2, 2] == pytest.approx(6 / 12 / chance)
    assert np.array_equal(found, found.T)
    many = np.random.default_rng(0).integers(0, 5, 4000)
    assert between_layers(many, [slice(0, 2000), slice(2000, 4000)]) == pytest.approx(1, abs=0.05)
    assert (between_layers(np.arange(6), [slice(0, 3), slice(3, 6)]) == 0).all()
