"""Validation while training: the best state is kept, a run may stop early, be counted in epochs, and be interrupted, all with the same result."""

import json

import numpy as np
import pytest
from support import isoform
from torch import nn

from isoform.runtime.errors import DataError, RecipeError
from isoform.train.data.load import load_tasks
from isoform.train.loop import train
from isoform.train.measuring.validation import Validation
from isoform.train.recipe import Recipe, ValidationTable, read_recipe

SMALL = {
    "steps": 12, "batch": 8, "threads": 1, "data": {"validation_fraction": 0.1}, "validation": {"evaluations": 6},
    "network": {"layers": 2, "templates": 2, "channels": 8, "head_channels": 8, "embedding": 8, "bn_directions": 0},
    "tasks": {"plain": {"data": "digits", "limit": 100}},
}  # fmt: skip


def recipe(**changes) -> Recipe:
    """A small run, measured every second step."""
    return Recipe.from_json({name: value for name, value in {**SMALL, **changes}.items() if value is not None})


def run(path, made: Recipe, **options):
    """Train it."""
    return train(made, load_tasks(made.tasks, made.data, root=None), checkpoint=path / "state", **options)


class Stateful:
    """What a run is to its validation."""

    def __init__(self, network) -> None:
        self._network = network

    def state(self):
        """Its parameters."""
        return [*self._network.parameters()]


def scored(scores, **fields):
    """A network of one number, which is the step, after these validation scores."""
    network = nn.Linear(1, 1, bias=False)
    validation = Validation(ValidationTable(evaluations=len(scores), **fields), Stateful(network))
    for step, score in enumerate(scores, 1):
        network.weight.data.fill_(step)
        assert validation.measured(step, len(scores), lambda score=score: score) == score
        if validation.done:
            break
    validation.settle()
    return validation, network.weight.item(), step


def test_the_best_state_comes_back() -> None:
    """Of equal scores the first; ``keep`` may be the last; the run is done after so many that were no better."""
    scores = [0.2, 0.7, 0.5, 0.7, 0.1, 0.9]
    validation, weight, step = scored(scores)
    assert (float(validation.best.score), weight, int(validation.at), step) == (pytest.approx(0.9), 6, 6, 6)
    assert scored(scores, patience=3)[1:] == (2, 5)
    assert scored(scores, patience=3, keep="last")[1:] == (5, 5)
    assert scored(scores, patience=3, keep="last")[0].settle() == {
        "validation_accuracy": pytest.approx(0.1),
        "best_step": 2,
    }
    assert Validation(ValidationTable(evaluations=2), Stateful(nn.Linear(1, 1))).measured(3, 10, lambda: 1.0) is None


def test_an_interrupted_run_keeps_its_best_state(tmp_path) -> None:
    """Interrupted between two evaluations and resumed, a run ends with the same bytes, best step and score; the history has the scores."""
    expected = run(tmp_path, recipe()).training
    scores = [entry["validation"] for entry in expected["history"] if "validation" in entry]
    assert len(scores) == 6
    assert expected["validation_accuracy"] == pytest.approx(max(scores), abs=1e-5)
    assert expected["best_step"] == 2 * (1 + int(np.argmax(scores)))
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) == 7

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, recipe(), stop=stop, fresh=True)
    assert run(tmp_path, recipe()).training == expected


def test_a_run_stops_when_it_gets_no_better(tmp_path) -> None:
    """With patience, steps end soon after the best state, which is that of the whole run up to there."""
    table = {"evaluations": 60, "patience": 2}
    steps: list[int] = []
    found = run(
        tmp_path,
        recipe(steps=60, validation=table, optimizer={"lr": 1e-8}),
        progress=lambda report: steps.append(report.step),
    )
    assert steps[-1] == found.training["best_step"] + 2 < 60


def test_epochs_are_steps(tmp_path) -> None:
    """Two epochs of 90 samples in batches of 8, each step of 3 parts, are 8 steps; neither, or no samples to validate on, is refused."""
    made = recipe(steps=0, epochs=2.0, accumulate=3)
    assert made.with_steps(90).steps == 8
    assert run(tmp_path, made).training["recipe"]["steps"] == 8
    with pytest.raises(RecipeError, match="or say how many epochs"):
        recipe(steps=0)
    with pytest.raises(DataError, match="task 'plain' has no validation samples, .* set data.validation_fraction"):
        run(tmp_path, recipe(data={}), fresh=True)
    plain = recipe(validation=None).to_json()
    assert not {"epochs", "accumulate", "validation"} & set(plain)


def test_epochs_and_steps_take_each_others_place(tmp_path) -> None:
    """Both in a file are refused; as a flag, one takes the place of the other in the file."""
    with pytest.raises(RecipeError, match="steps is 12 and epochs 2, but one of the two was expected"):
        recipe(epochs=2.0)
    assert read_recipe("digits", {"epochs": "3"}).with_steps(320).steps == 30
    (tmp_path / "r.toml").write_text('epochs = 4.0\n[tasks.plain]\ndata = "digits"\n')
    assert (
        read_recipe(str(tmp_path / "r.toml"), {"steps": "7"}).steps,
        read_recipe(str(tmp_path / "r.toml"), {}).epochs,
    ) == (7, 4)


def test_recipes_of_earlier_bundles_are_read() -> None:
    """An allocation's number of evaluations became the table ``validation``, 0 was none; the steps of epochs stood beside them. Not so in TOML."""
    older = {**read_recipe("digits-allocation", {}).to_json()}
    for count, table in ((0, None), (8, ValidationTable(evaluations=8))):
        value = {**older, "optimizer": {**older["optimizer"], "evaluations": count}}
        assert Recipe.of_bundle(value, where="bundle.json").validation == table
        with pytest.raises(RecipeError, match="evaluations"):
            Recipe.from_json(value)
    epochs = {**read_recipe("digits", {}).to_json(), "epochs": 3.0}
    assert Recipe.of_bundle(epochs, where="bundle.json") == read_recipe("digits", {})


def test_every_kind_but_the_one_that_does_it_itself(tmp_path) -> None:
    """``alignment`` refuses the table, and says what does it there; by the command line the others take it."""
    flags = ["--data.validation_fraction", "0.1", "--validation.evaluations", "3"]
    result = isoform("train", "digits-alignment", "-o", tmp_path / "b", *flags, check=False)
    assert result.returncode == 2
    assert "keep their best state by" in result.stderr
    for name, words in (
        ("digits", ["--network.layers", "2", "--network.bn_directions", "0"]),
        ("digits-allocation", []),
    ):
        made = isoform("train", name, "-o", tmp_path / "b", "--steps", "6", "--threads", "1", *words, *flags)
        assert json.loads(made.stdout)["best_step"] in (2, 4, 6)
