"""Which of the processes of a run this one is, and runs that cannot be shared."""

import pytest
from support import TINY, isoform_here

from isoform.runtime.errors import RecipeError, UsageError
from isoform.train.data.load import load_tasks
from isoform.train.loop import train
from isoform.train.parallel.place import Place, place_of_environment
from isoform.train.recipe import read_recipe

LAUNCHED = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables; those of a launcher that are not named are not there."""

    def set_(**variables: str) -> None:
        for name in LAUNCHED:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    set_()
    return set_


def test_the_place_is_what_the_launcher_says(environment) -> None:
    """torchrun's variables; one process per machine without the local ones; alone without a launcher, or with half of its variables."""
    assert place_of_environment() == Place()
    assert place_of_environment().first
    environment(**LAUNCHED)
    assert place_of_environment() == Place(rank=1, count=4, local_rank=1, local_count=2)
    assert not place_of_environment().first
    environment(**{name: value for name, value in LAUNCHED.items() if not name.startswith("LOCAL")})
    assert place_of_environment() == Place(rank=1, count=4)
    environment(RANK="1", WORLD_SIZE="4")  # as a job scheduler may leave behind
    assert place_of_environment() == Place()


@pytest.mark.parametrize(
    "changes", [{"RANK": "one"}, {"RANK": "4"}, {"LOCAL_RANK": "2"}, {"LOCAL_WORLD_SIZE": "5"}, {"WORLD_SIZE": "-4"}]
)
def test_variables_that_cannot_be_are_refused(environment, changes) -> None:
    """Not numbers, or a place outside of what there is."""
    environment(**{**LAUNCHED, **changes})
    with pytest.raises(UsageError, match="start the processes with torchrun"):
        place_of_environment()


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("digits", {"steps": "1", "batch": "18"}, "batch is 18, but 4 processes need a multiple of 4"),
        (
            "digits",
            {"adaptation.target": "edges"},
            "a recipe with adaptation is trained by one process, but this is one of 4; run it without torchrun",
        ),
        (
            "digits-alignment",
            {},
            "a recipe of kind 'alignment' is trained by one process, but this is one of 4; run it without torchrun",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused_before_processes_wait(
    environment, tmp_path, recipe, overrides, message
) -> None:
    """One process of four is told, although the other three are not there."""
    read = read_recipe(recipe, overrides)
    datasets = load_tasks(read.tasks, read.data, root=None)
    environment(**LAUNCHED)
    with pytest.raises(RecipeError, match=message):
        train(read, datasets, checkpoint=tmp_path / "state")


def test_the_command_says_it_in_a_line(environment, tmp_path) -> None:
    """Also in a process that prints nothing else."""
    environment(**{**LAUNCHED, "WORLD_SIZE": "3"})
    result = isoform_here("train", "digits", "-o", tmp_path / "bundle", *TINY)
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["isoform train: batch is 16, but 3 processes need a multiple of 3"]
    assert not [*tmp_path.iterdir()]
