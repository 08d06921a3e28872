"""One style for all figures: colours of the page, whole markers, rows in the order of templates, and what changed in words where it cannot be seen."""

import re

import numpy as np
import pytest
from support import ROOT, isoform_here

from isoform.runtime.commands.figures import style
from isoform.runtime.commands.figures.confusions import draw
from isoform.runtime.commands.figures.sharing import Sharing, draw_layers, draw_modules
from isoform.runtime.commands.figures.signatures import Origin, draw_signatures
from isoform.runtime.commands.figures.stream import draw_stream
from isoform.runtime.commands.figures.tasks import draw_history, draw_similarity, draw_tasks
from isoform.runtime.formats.bundle import Bundle

pytest.importorskip("matplotlib")
DIGITS = ROOT / "docs" / "examples" / "bundle"
FIRST, SECOND = np.eye(3)[[2, 0, 2]], np.eye(3)[[2, 1, 2]]
CALLS = [
    {"samples": 32, "entropy": 0.0, "concentration": 0.0, "accuracy": 1.0, "event": "update"},
    {"samples": 64, "entropy": 0.4, "concentration": 0.2, "accuracy": 0.5, "event": "new domain"},
    {"samples": 96, "entropy": 0.1, "concentration": 0.1, "accuracy": 1.0, "event": "reset"},
]


def words(axis) -> str:
    """What is written in a panel."""
    return " ".join(text.get_text() for text in axis.texts)


def test_the_colours_are_the_page_s() -> None:
    """Every colour with a name is one of the page's style sheet, in its light form."""
    page = (ROOT / "server" / "page" / "page.css").read_text(encoding="utf-8").split("@media")[0]
    for name in ("TEXT", "QUIET", "LINE", "SOFT", "ACCENT", "MARK", "GOOD", "BAD"):
        assert re.search(rf"--{name.lower()}: {getattr(style, name)}\b", page), name


def test_rows_are_in_the_order_of_templates() -> None:
    """Unless they are to be sorted by their first use."""
    for ordered, expected in ((False, ["0", "1", "2"]), (True, ["2", "0", "1"])):
        axis = draw_signatures({"a": FIRST, "b": SECOND}, ordered=ordered).axes[0]
        assert [text.get_text() for text in axis.get_yticklabels()] == expected
        drawn = axis.images[0].get_array()
        assert [expected[row] for row in drawn.argmax(axis=0)] == ["2", "0", "2"]


def test_many_panels_go_on_in_the_next_row() -> None:
    """Four beside each other, so that a figure of a dozen signatures can be read."""
    figure = draw_signatures({f"t{number}": FIRST for number in range(9)})
    width, height = figure.get_size_inches()
    assert width < 14
    assert height > width / 2
    assert (
        max(axis.get_subplotspec().rowspan.stop for axis in figure.axes if axis.get_title("left").startswith("t")) == 3
    )


def test_what_changed_is_drawn_where_it_can_be_seen() -> None:
    """A change of templates is a heat map of its own; without one the parts that differ are named, BN alone as such."""
    moved = FIRST + np.array([[0.1, 0, -0.1], [0, 0, 0], [0, 0, 0]])
    origins = {
        "seen": Origin(usage=FIRST, changed=("mixture",)),
        "bn": Origin(usage=FIRST, name="base", distance=0.0, changed=("bn.affine", "bn.statistics")),
        "head": Origin(usage=FIRST, distance=0.01, changed=("delta", "logits.bias")),
        "same": Origin(usage=FIRST),
    }
    figure = draw_signatures({"plain": FIRST, "seen": moved, "bn": FIRST, "head": FIRST, "same": FIRST}, origins=origins)  # fmt: skip
    panels = [axis for axis in figure.axes if axis.get_title("left").partition(" - its ")[1]]
    assert [axis.get_title("left") for axis in panels] == [
        "seen - its start: 0.033", "bn - its base: 0.000", "head - its start: 0.010", "same - its start: 0.000",
    ]  # fmt: skip
    assert panels[0].images[0].get_array().max() == pytest.approx(0.1)
    assert [len(axis.images) for axis in panels] == [1, 0, 0, 0]
    assert "only normalisation changed:\nbn.affine\nbn.statistics" in words(panels[1])
    assert "changed:\ndelta\nlogits.bias" in words(panels[2])
    assert words(panels[3]) == "the same as its start"
    bars = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel() not in ("", "template")]
    assert bars == ["ξ", "change of ξ"]


def test_a_user_s_figure_says_that_only_bn_changed(tmp_path) -> None:
    """By the command, of a signature whose BN statistics alone are its own."""
    base = Bundle.load(DIGITS).base("plain")
    user = base.keep("bn.statistics")
    statistics = user.parts["bn.statistics"] * np.float32(1.1)
    user.replace(parts={"bn.statistics": statistics}, parent=base.digest).save(tmp_path / "me.safetensors")
    done = isoform_here("figure", DIGITS, "--signature", tmp_path / "me.safetensors", "-o", tmp_path / "me.svg")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "me.svg").read_text()
    assert "only normalisation changed:" in text
    assert "<!-- bn.statistics -->" in text
    done = isoform_here("figure", DIGITS, "--view", "tasks", "--sort", "-o", tmp_path / "no.svg")
    assert (done.returncode, "--sort is for --view signatures" in done.stderr) == (2, True)


def test_markers_are_whole_and_events_have_a_legend() -> None:
    """Points at zero and at a hundred per cent are not cut by the edge; each kind of event is named once."""
    figure = draw_stream({"calls": CALLS, "method": "$auto$"})
    for axis in figure.axes:
        (line,) = [line for line in axis.lines if line.get_marker() == "."]
        assert not line.get_clip_on()
        low, high = axis.get_ylim()
        assert low <= min(line.get_ydata()) <= max(line.get_ydata()) <= high
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["new domain", "reset"]
    flat = draw_stream({"calls": [{**call, "entropy": 0.0} for call in CALLS]})
    assert flat.axes[1].get_ylim()[1] > 0


def test_legends_do_not_lie_on_charts() -> None:
    """They are beside the chart, in letters of eight points or more."""
    shared = Sharing([0, 1], {"a": [1, 2], "a + b": [3, 4]}, ["x", "y"], np.ones((2, 2)))
    history = draw_history([0, 1], np.full((2, 2, 12), 0.5), task="$t$")
    for axis in (draw_modules(shared).axes[0], history.axes[1]):
        legend = axis.get_legend()
        axis.figure.draw_without_rendering()
        assert legend.get_window_extent().x0 >= axis.get_window_extent().x1
        assert all(text.get_fontsize() >= 8 for text in legend.get_texts())


def test_every_heat_map_has_the_style(tmp_path) -> None:
    """Shares are blue on paper, differences blue and ochre; none has a map of matplotlib's own."""
    from isoform.runtime.commands.evaluation import evaluated

    usage = {"a": FIRST, "b": SECOND}
    shared = Sharing([0, 1], {"a": [1, 2]}, ["x", "y"], np.ones((2, 2)))
    figures = [draw_signatures(usage), draw_tasks(usage), draw_similarity(usage, clustered=True), draw_layers(shared)]
    maps = [axis.images[0].get_cmap().name for figure in figures for axis in figure.axes[:1]]
    assert maps == ["shares", "shares", "shares", "differences"]
    found = evaluated(np.eye(2, dtype=np.float32), np.array([0, 1]), labels=("$a", "b$"))
    draw({"me": found}, tmp_path / "confusion.svg")
    assert "<!-- $a -->" in (tmp_path / "confusion.svg").read_text()
