"""What people read of recipes, docs/recipes.md and ``isoform train --help``, is what the dataclasses say."""

import re
import subprocess
import sys

import pytest
from support import ROOT, isoform_here

from isoform.train.data.domains import DOMAINS
from isoform.train.fields import Table, fields_of, ranges_of
from isoform.train.kind import TRAINERS, trainer_named
from isoform.train.recipe import override_fields
from isoform.train.reference.described import sections
from isoform.train.reference.page import page

ALL = [section for kind in TRAINERS for section in sections(trainer_named(kind).recipe)]


def test_the_page_is_what_the_code_says() -> None:
    """docs/recipes.md is what the command in its first lines prints."""
    kept = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert kept == page(), "python -m isoform.train.reference.page > docs/recipes.md"
    assert "python -m isoform.train.reference.page > docs/recipes.md" in kept.splitlines()[2]


def test_every_field_is_on_the_page() -> None:
    """Every table of every kind with every field, its default and its range."""
    text, rows = page(), 0
    for section in ALL:
        assert not section.heading or f"### `{section.heading}`" in text
        for field in section.fields:
            (row,) = {
                line for line in text.splitlines() if line.startswith(f"| `{field.name}` |") and field.meaning in line
            }
            assert f"| {field.range} |" in row
            assert field.default in row
            rows += 1
    assert rows > 60


def test_every_field_says_what_it_means() -> None:
    """There is a docstring below every field of every table, and the data's one names every domain."""
    for section in ALL:
        for field in section.fields:
            assert field.meaning.endswith((".", "…")), f"{section.name}.{field.name}"
    (domain,) = {field.meaning for section in ALL for field in section.fields if field.name == "domain"}
    assert {*re.findall(r"`(\w+)`", domain)} == {*DOMAINS}


def test_every_number_of_a_recipe_has_a_range() -> None:
    """So that none is accepted that means nothing."""
    tables = {section.table for section in ALL if issubclass(section.table, Table)}
    numbers = {
        f"{table.__name__}.{name}"
        for table in tables
        for name, hint in fields_of(table).items()
        if (hint in (int, float) or str(hint).startswith("tuple[int")) and name not in ranges_of(table)
    }
    assert len(tables) > 12
    assert numbers == set()


def test_help_has_every_flag_in_its_group() -> None:
    """With meaning, range and default, in 80 columns."""
    text = isoform_here("train", "--help").stdout
    assert max(map(len, text.splitlines())) <= 80
    flags = [
        flag
        for flag in re.findall(r"^  --(\S+)", text, flags=re.MULTILINE)
        if flag not in ("data", "fresh", "checkpoint-seconds", "workers", "log", "device")
    ]
    assert sorted(flags) == sorted(override_fields())
    group = text.index("\nnetwork, of recipes of kind mixture or allocation:")
    assert group < text.index("--network.channels") < text.index("\nmixture, of recipes of kind mixture:")
    words = " ".join(text.split())
    for told in (
        "mixture: C, the channels between blocks.",
        "1 to 4,096; default 24)",
        "allocation: Feature maps of every convolution.",
        "0.01 to 0.99; default 0.25)",
    ):
        assert told in words


@pytest.mark.parametrize("missing", ["torch", "scipy"])
def test_help_needs_no_torch(missing) -> None:
    """Flags are described where torch is not installed, and nothing large is imported."""
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from isoform.runtime.cli import main; main(['train', '--help'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--network.layers" in result.stdout
