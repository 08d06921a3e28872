"""Figures of many signatures: rows per task, similarity, clusters, and what a task used over the steps of training."""

import dataclasses

import numpy as np
import pytest
from modular import DENSE, random_bundle

from isoform.runtime.cli import main
from isoform.runtime.commands.figures.graph import draw_graph
from isoform.runtime.commands.figures.signatures import draw_signatures
from isoform.runtime.commands.figures.tasks import clusters, draw_similarity, draw_tasks, read_record, similarity
from isoform.runtime.errors import UsageError

FIRST, SECOND = [[1, 1, 0], [1, 0, 0]], [[0, 0, 1], [0, 1, 0]]


def usage(*masks):
    """Masks as a kind says them."""
    return {f"t{number}": np.array(mask, dtype=np.float64) for number, mask in enumerate(masks)}


def test_similarity() -> None:
    """Equal masks have 1, disjoint ones 0, and a task that uses nothing is like none."""
    found = similarity(usage(FIRST, FIRST, SECOND, np.zeros((2, 3))))
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == 0
    assert np.isfinite(found).all()
    assert found[3, 3] == 0


def test_clusters_stand_side_by_side() -> None:
    """Two families in turn come out one after the other."""
    order = clusters(similarity(usage(FIRST, SECOND, FIRST, SECOND, FIRST)))
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert [index % 2 for index in order] in ([0, 0, 0, 1, 1], [1, 1, 0, 0, 0])


def test_what_the_pictures_say() -> None:
    """The number of different masks and the share in use; layers that all tasks use alike are marked, by all of their components."""
    assert draw_tasks(usage(FIRST, FIRST, SECOND)).axes[0].get_title() == "2 different of 3; 44 % in use"
    assert len(draw_similarity(usage(FIRST, SECOND), clustered=True).axes[0].get_yticks()) == 2
    alike = draw_signatures(usage(FIRST, [[1, 1, 0], [1, 1, 0]]))
    assert alike.get_suptitle().startswith("1 of 2 layers use the same templates in every")


def bundle_with_record(record):
    """A bundle of two tasks whose training recorded something."""
    made = random_bundle(DENSE, [np.array(DENSE.exists)] * 2)
    return dataclasses.replace(made, training={"record": record})


def test_a_record_is_read() -> None:
    """Two hex digits per component and time, 0 to 255."""
    texts = ["80" * 6, "00ff00ff00ff"]
    steps, found = read_record({"record": {"steps": [0, 5], "probabilities": {"a": texts}}}, "a", (2, 3))
    assert steps == [0, 5]
    assert found[0].max() == pytest.approx(128 / 255)
    assert found[1].tolist() == [[0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "no record of what task 'a' used"),
        ({"steps": [0], "probabilities": {"b": ["00"]}}, "no record"),
        ({"steps": [0], "probabilities": {"a": ["zz" * 6]}}, "no record"),
        ({"steps": [0], "probabilities": {"a": ["00"]}}, "no record"),
        ({"steps": [0, 1], "probabilities": {"a": ["00" * 6]}}, "has 1 entries for 2 steps"),
    ],
)
def test_a_record_that_is_none(record, message) -> None:
    """bundle.json may come from a stranger, or from a kind that records nothing."""
    with pytest.raises(UsageError, match=message):
        read_record({} if record is None else {"record": record}, "a", (2, 3))


def test_views_by_command(tmp_path, capsys) -> None:
    """Every view is a picture; many tasks are drawn as rows unless asked otherwise; mistakes are one line."""
    record = {"steps": [0, 9], "probabilities": {"task0": ["80" * 6, "ff" * 6], "task1": ["80" * 6] * 2}}
    bundle_with_record(record).write(tmp_path / "few")
    random_bundle(DENSE, [np.array(DENSE.exists)] * 13).write(tmp_path / "many")
    for view in ("signatures", "tasks", "similarity", "clusters", "history", "graph"):
        assert main(["figure", str(tmp_path / "few"), "--view", view, "-o", str(tmp_path / f"{view}.svg")]) == 0
        assert "</svg>" in (tmp_path / f"{view}.svg").read_text()
    assert (
        main(["figure", str(tmp_path / "few"), "--view", "history", "--task", "task1", "-o", str(tmp_path / "h.svg")])
        == 0
    )
    assert (tmp_path / "h.svg").read_bytes() != (tmp_path / "history.svg").read_bytes()
    assert main(["figure", str(tmp_path / "many"), "-o", str(tmp_path / "default.svg")]) == 0
    assert main(["figure", str(tmp_path / "many"), "--view", "tasks", "-o", str(tmp_path / "rows.svg")]) == 0
    assert (tmp_path / "default.svg").read_bytes() == (tmp_path / "rows.svg").read_bytes()
    capsys.readouterr()
    for words, message in (
        (["--view", "history", "--task", "other"], "there is no task 'other'"),
        (["--view", "tasks", "--task", "task0"], "--task chooses what --view history draws"),
    ):
        assert main(["figure", str(tmp_path / "few"), *words, "-o", str(tmp_path / "no.svg")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no.svg").exists()


def test_paths_through_templates(tmp_path) -> None:
    """A line for each task in every gap between layers, through the templates it uses; layers that all use alike are framed; masks branch."""
    mixtures = {name: np.eye(3)[rows] for name, rows in (("a", [0, 1, 2]), ("b", [0, 2, 2]))}
    axis = draw_graph(mixtures).axes[0]
    lines = [
        line.get_xydata()
        for line in axis.lines
        if len(line.get_xdata()) == 2 and line.get_xdata()[0] != line.get_xdata()[1]
    ]
    assert len(lines) == 2 * 2
    # a starts at template 1 and goes to 2; lines in the same template are beside each other
    np.testing.assert_allclose(lines[0][:, 1], [1, 2], atol=0.2)
    assert lines[0][0, 1] != lines[2][0, 1]
    assert [patch.get_x() for patch in axis.patches] == pytest.approx([0.6, 2.6])  # the first and the third layer
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    branching = draw_graph(usage([[1, 1, 0], [1, 1, 1]], [[0, 0, 1], [0, 0, 0]]), several=True).axes[0]
    assert (
        sum(len(line.get_xdata()) == 2 and line.get_xdata()[0] != line.get_xdata()[1] for line in branching.lines)
        == 2 * 3
    )
    # what a delta adds may be more than 1 in all, and less than half in each
    free = draw_graph({"a": np.array([[0.6, 0.3, 0.2], [0.4, 0.4, 0.3]])}).axes[0]
    assert sum(len(line.get_xdata()) == 2 and line.get_xdata()[0] != line.get_xdata()[1] for line in free.lines) == 1
    with pytest.raises(UsageError, match="25 tasks are too many for lines, at most 24 can be drawn; take --view tasks"):
        draw_graph(usage(*[FIRST] * 25))
