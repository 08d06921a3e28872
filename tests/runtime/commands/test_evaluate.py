"""``isoform evaluate``: figures by hand, tables of at most 80 columns, pictures, mistakes."""

import json
import re

import numpy as np
import pytest
from support import isoform_here

from isoform.runtime import Runtime
from isoform.runtime.commands.evaluation import evaluated
from isoform.runtime.learn.labels import label_indices


def test_figures_are_those_of_the_definitions() -> None:
    """Six samples of three classes, counted by hand."""
    logits = np.log(
        np.array(
            [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.9, 0.05, 0.05]]
        )
    )
    truth = np.array([0, 0, 1, 1, 1, 1])
    found = evaluated(logits.astype(np.float32), truth, labels=("a", "b", "c"), groups=list("xxyyyx"))
    assert (found.samples, found.accuracy) == (6, pytest.approx(4 / 6))
    assert found.class_mean == pytest.approx((1 + 0.5) / 2)  # class c has no samples
    assert found.confusion.tolist() == [[2, 0, 0], [2, 2, 0], [0, 0, 0]]
    assert found.log_loss == pytest.approx(-np.log([0.7, 0.6, 0.8, 0.4, 0.7, 0.05]).mean(), rel=1e-5)
    # bins of a fifteenth: both 0.7 share one, the others are alone
    error = (abs(2 - 1.4) + abs(1 - 0.6) + abs(1 - 0.8) + 0.5 + 0.9) / 6
    assert found.calibration_error == pytest.approx(error, rel=1e-4)
    assert found.groups == {"x": (3, pytest.approx(2 / 3)), "y": (3, pytest.approx(2 / 3))}
    assert found.classes() == {
        "a": {"samples": 2, "recall": 1.0, "precision": 0.5, "taken_for": None},
        "b": {"samples": 4, "recall": 0.5, "precision": 1.0, "taken_for": ["a", 2]},
    }
    json.dumps(found.to_json())


@pytest.fixture
def data(samples, tmp_path):
    """Digits in a file, with people as groups."""
    labels, groups = np.array([str(label) for label in samples[1]]), np.array([f"person {i % 20}" for i in range(256)])
    np.savez(tmp_path / "digits.npz", x=samples[0], labels=labels, groups=groups)
    return tmp_path / "digits.npz"


def test_several_signatures(compiled, data, samples, tmp_path) -> None:
    """Bases and files, as tables for people and as JSON; accuracies are those of predictions."""
    with Runtime.open(compiled) as runtime:
        base = runtime.signature("plain")
        user = base.replace(
            parts={**base.parts, "logits.bias": base.parts["logits.bias"] + np.arange(10)}, parent=base.digest
        )
        right = {
            name: float((runtime.predict(samples[0], signature).argmax(1) == samples[1]).mean())
            for name, signature in (("plain", base), ("me", user), ("edges", runtime.signature("edges")))
        }
    user.save(tmp_path / "me.safetensors")
    words = (
        "evaluate",
        compiled,
        "--data",
        data,
        "--task",
        "plain",
        "--task",
        "edges",
        "--signature",
        tmp_path / "me.safetensors",
    )
    told = json.loads(isoform_here(*words, "--json").stdout)["signatures"]
    assert {name: one["accuracy"] for name, one in told.items()} == pytest.approx(right)
    assert told["me"]["digest"] == user.digest
    assert len(told["me"]["groups"]) == 20
    said = isoform_here(*words, "--plot", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    lines = said.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for name, share in right.items():
        assert re.search(rf"^{name} +{100 * share:.2f} %", said.stdout, re.MULTILINE)
        assert f"{name}, by class" in lines
    assert "8 groups more, better than these; --json has all" in lines


def test_without_names_it_takes_the_tasks_that_know_the_labels(compiled, data, tmp_path) -> None:
    """All four domains here; and none where a label is unknown. One class is enough."""
    told = json.loads(isoform_here("evaluate", compiled, "--data", data, "--json").stdout)
    assert [*told["signatures"]] == ["plain", "inverted", "blurred", "edges"]
    loaded = np.load(data)
    fives = loaded["labels"] == "5"
    np.savez(tmp_path / "fives.npz", x=loaded["x"][fives], labels=loaded["labels"][fives])
    said = isoform_here("evaluate", compiled, "--data", tmp_path / "fives.npz", "--task", "plain")
    assert said.returncode == 0
    assert f"{fives.sum()} samples" in said.stdout
    np.savez(tmp_path / "odd.npz", x=loaded["x"][:4], labels=np.array(["7", "cat", "7", "8"]))
    said = isoform_here("evaluate", compiled, "--data", tmp_path / "odd.npz")
    assert said.returncode == 2
    assert "no task knows the labels of" in said.stderr
    said = isoform_here("evaluate", compiled, "--data", tmp_path / "odd.npz", "--task", "plain")
    assert (said.returncode, "'cat'" in said.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "nobody"), "there is no task 'nobody'"),
        (("--plot", "a.txt"), "--plot ends in '.txt', but one of .png, .svg, .pdf was expected"),
        (("--plot", "nowhere/a.png"), "nowhere is not a folder; create it first"),
        (("--signature", "none.safetensors"), "none.safetensors"),
    ],
)
def test_mistakes_are_one_line(words, message, compiled, data, tmp_path) -> None:
    """With what was expected."""
    said = isoform_here("evaluate", compiled, "--data", data, *words, cwd=tmp_path)
    assert said.returncode == 2
    assert message in said.stderr
    assert "Traceback" not in said.stderr


def test_labels_of_a_single_class() -> None:
    """Are refused where something is to be learned."""
    assert label_indices(["b", "b"], ("a", "b"), samples=2, several=False).tolist() == [1, 1]
