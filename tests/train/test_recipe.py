"""Recipes."""

import dataclasses

import pytest

from isoform.runtime.errors import RecipeError
from isoform.train.kind import TRAINERS, trainer_named, trainer_of
from isoform.train.kinds.mixture.recipe import MixtureRecipe, NetworkTable
from isoform.train.recipe import Recipe, override_fields, read_recipe, recipe_names


def test_shipped_recipes_are_valid() -> None:
    """Every shipped recipe is read, and says what it trains."""
    assert recipe_names() == [
        "digits",
        "digits-alignment",
        "digits-allocation",
        "keywords",
        "mnist-fashion",
        "mnist4",
        "photos",
        "sensors",
    ]
    for name in recipe_names():
        assert read_recipe(name, {}).tasks


def test_resolved_recipe_round_trip() -> None:
    """The resolved recipe in a bundle reads back as the same recipe with the same digest."""
    recipe = read_recipe("digits", {"seed": "7"})
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.digest() == recipe.digest() != read_recipe("digits", {}).digest()


def test_a_recipe_names_its_kind() -> None:
    """Without a name it is a mixture's, and says none in JSON: bundles, digests and checkpoints are what they were before there were kinds."""
    old = read_recipe("digits", {}).to_json()
    assert "kind" not in old
    assert list(old) == ["steps", "batch", "seed", "threads", "data", "network", "mixture", "optimizer", "tasks"]
    named = Recipe.from_json({"kind": "mixture", **old})
    assert type(named) is MixtureRecipe
    assert named == Recipe.from_json(old)
    assert named.digest() == Recipe.from_json(old).digest()
    assert trainer_of(named) is trainer_named("mixture")


def test_every_kind_is_called_by_one_name() -> None:
    """A recipe's kind is the name under which its trainer is found."""
    for name in TRAINERS:
        assert trainer_named(name).recipe.kind == name


def test_overrides() -> None:
    """Every flag overrides its field, nested ones by their dotted name, and text need not be quoted."""
    flags = {
        "steps": "5",
        "network.layers": "3",
        "optimizer.lr": "1",
        "mixture.signature": "cyclic",
        "data.input_shape": "[1, 16, 16]",
    }
    recipe = read_recipe("digits", flags)
    assert (recipe.steps, recipe.network.layers, recipe.optimizer.lr) == (5, 3, 1.0)
    assert (recipe.mixture.signature, recipe.data.input_shape) == ("cyclic", (1, 16, 16))
    assert set(flags) <= set(override_fields())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = ", "is not TOML"),
        (
            "batch = 3\n[tasks.a]\ndata='digits'",
            "steps is 0, but 1 to 100,000,000 was expected; or say how many epochs",
        ),
        ("steps = 1", "has no task"),
        ("steps = 1\ncolour = 2", "unknown field 'colour'; its fields are steps, epochs, batch"),
        ("steps = 1\n[network]\nlayer = 2", "network has an unknown field 'layer'"),
        ("steps = 1\nkind = 'collage'", "kind is 'collage', but 'mixture' or 'allocation' or 'alignment' was expected"),
        ("steps = 1\nkind = 3", "kind is 3, but 'mixture' or 'allocation' or 'alignment' was expected"),
        ("steps = 1.5\n[tasks.a]\ndata='digits'", "steps is 1.5, but a whole number was expected"),
        ("steps = true\n[tasks.a]\ndata='digits'", "steps is True, but a whole number"),
        ("steps = 0\n[tasks.a]\ndata='digits'", "steps is 0, but 1 to"),
        ("steps = 1\nbatch = 1\n[tasks.a]\ndata='digits'", "batch is 1, but 2 to"),
        ("steps = 1\nnetwork = 3", "network is a int, but a table"),
        ("steps = 1\ntasks = 3", "tasks is 3, but a table"),
        ("steps = 1\n[tasks.'a/b']\ndata='digits'", "named 'a/b'"),
        ("steps = 1\n[tasks.a]\ndata='imagenet'", "tasks.a, data is 'imagenet', but 'digits' or 'idx'"),
        ("steps = 1\n[tasks.a]\ndata='digits'\nlimit = -1", "tasks.a, limit is -1"),
        ("steps = 1\n[optimizer]\nlr = 'fast'", "optimizer, lr is 'fast', but a number"),
        ("steps = 1\n[optimizer]\nlr = -1", "optimizer, lr is -1"),
        ("steps = 1\n[optimizer]\nlr = nan", "optimizer, lr is nan"),
        ("steps = 1\n[mixture]\nentropy_start = 0.6\nentropy_end = 0.5", "entropy_end is 0.5, but 0.6 to 1"),
        ("steps = 1\n[mixture]\nsignature = 'spiral'", "signature is 'spiral', but 'learned' or"),
        ("steps = 1\n[data]\ninput_shape = [1, 2]", "input_shape is \\[1, 2\\], but 3 whole numbers"),
        ("steps = 1\n[data]\ntest_fraction = 1", "test_fraction is 1"),
        (
            "steps = 1\n[data]\ninput_shape = [1, 0, 2]",
            "data, input_shape is \\[1, 0, 2\\], but 1 to 65536 was expected of each",
        ),
        ("steps = 1\n[network]\nlayers = 257", "network, layers is 257, but 1 to 256 was expected"),
        ("steps = 1\n[network]\nse_ratio = 0", "network, se_ratio is 0.0, but above 0 to 1 was expected"),
        ("steps = 1\nkind = 'allocation'\n[[layers]]\nstride = 9", "stride is 9, but 1 to 8 was expected"),
        ("steps = 1\nkind = 'allocation'\n[allocation]\ntemperature = 0.1", "temperature is 0.1, but 0.5 to 1e\\+06"),
        ("steps = 1\nkind = 'allocation'\n[allocation]\ntemperature_end = nan", "allocation, temperature_end is nan"),
    ],
)
def test_bad_recipes_are_refused(text, message, tmp_path) -> None:
    """Every mistake is named with its place, what came, and what was expected."""
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_recipe(str(tmp_path / "r.toml"), {})


def test_unreadable_recipes_are_named(tmp_path) -> None:
    """A missing or binary file is a clear error that lists the shipped recipes."""
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(
        RecipeError,
        match="not UTF-8 text; give a TOML file, or one of digits, digits-alignment, digits-allocation, keywords, mnist-fashion, mnist4, photos, sensors",
    ):
        read_recipe(str(tmp_path / "r.toml"), {})
    with pytest.raises(RecipeError, match="No such file"):
        read_recipe(str(tmp_path / "no.toml"), {})


def test_an_override_of_a_plain_field_as_a_table_is_refused() -> None:
    """``--steps.x`` cannot happen by flag, and by function is an error, not a crash."""
    with pytest.raises(RecipeError, match="has no table network.layers"):
        read_recipe("digits", {"network.layers.deep": "1"})


def test_every_field_is_documented_or_named_after_the_spec() -> None:
    """Recipes are flat tables of numbers, texts and tuples, so that a flag can set each."""
    for field in dataclasses.fields(NetworkTable):
        assert f"network.{field.name}" in override_fields()
