"""Help and tables fit a terminal of 80 columns, and what commands print for a person is what is kept."""

import pytest
from snapshots import CHANGING, KEPT, WORDS, file_of, shown
from support import isoform_here

from isoform.runtime import cli
from isoform.runtime.adapt.registry import METHODS, summaries
from isoform.runtime.tables import aligned, cut, divided, named, tail


@pytest.mark.parametrize("verb", ["", *cli.VERBS])
def test_help_fits(verb, monkeypatch) -> None:
    """No line of a ``--help`` is longer than the terminal, and none ends in a space."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = isoform_here(*filter(None, [verb]), "--help").stdout.splitlines()
    assert len(lines) > 8
    assert [line for line in lines if len(line) > 80 or line != line.rstrip()] == []


def test_adapt_lists_its_methods() -> None:
    """Each by name with a sentence of its own, and which is the default."""
    text = isoform_here("adapt", "--help").stdout
    assert len(METHODS) == len(set(summaries().values())) >= 13
    for name, about in summaries().items():
        assert about.endswith(".")
        assert f"  {name:12}  {about}{' (default)' if name == 'auto' else ''}\n" in text


@pytest.mark.parametrize("name", [*WORDS, *CHANGING])
def test_what_is_printed_is_what_is_kept(name) -> None:
    """Letter by letter; after a change that is meant, ``python tests/helpers/kept/snapshots.py`` writes the texts anew."""
    text = shown(name)
    assert text == file_of(name).read_text(encoding="utf-8")
    if name in WORDS:  # the others have JSON for scripts, and sentences, which a terminal wraps
        assert [line for line in text.splitlines() if len(line) > 80] == []


def test_every_verb_is_looked_at() -> None:
    """There is a text of each."""
    assert {"compile", *(words[0] for words in (*WORDS.values(), *CHANGING.values()) if words)} == {*cli.VERBS}


def test_every_text_that_is_kept_is_looked_at() -> None:
    """No file is left of a command that is not shown any more."""
    assert sorted(path.stem for path in KEPT.rglob("*.txt")) == sorted([*WORDS, *CHANGING])


def test_tables_give_way() -> None:
    """Text is cut where a table would be too wide, the widest first; numbers never are."""
    lines = aligned(["name", "n", "about"], [["a" * 70, "1,234,567", "b" * 40], ["c", "8", ""]], left=(0, 2))
    assert [len(line) <= 80 for line in lines] == [True] * 3
    assert "1,234,567" in lines[1]
    assert lines[1].count("…") == 2
    assert aligned(["name", "n"], [["a", "12"]]) == ["name   n", "a     12"]
    assert (cut("abcdef", 4), cut("abcd", 4), tail("/a/b/c", 4), tail("/a/b", 4)) == ("abc…", "abcd", "…b/c", "/a/b")
    assert [len(line) <= 80 for line in named("x", "word " * 60)] == [True] * 3
    assert named("x", "") == ["x           -"]


def test_wide_tables_go_on_below() -> None:
    """Every column is there once, the first in each part, and no line is too long; a wide text is cut."""
    columns = ["task", "text", *(f"measurement {number}" for number in range(9))]
    rows = [[f"t{row}", "word " * 30, *(f"{1000 * row + number:,}" for number in range(9))] for row in range(3)]
    lines = divided("a title", columns, rows, left=(0, 1))
    assert lines[0] == "a title"
    assert max(map(len, lines)) <= 80
    parts = "\n".join(lines[1:]).strip().split("\n\n")
    assert len(parts) > 1
    heads = [part.splitlines()[0] for part in parts]
    assert all(head.startswith("task") for head in heads)
    assert [head.count(name) for name in columns[2:] for head in heads].count(1) == 9
    assert "2,008" in lines[-2]
    assert divided("a", ["task"], [["x"]]) == ["a", "task", "x", ""]
