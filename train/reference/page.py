"""Writes docs/recipes.md, the page of all recipe fields.

python -m isoform.train.reference.page > docs/recipes.md
"""

from __future__ import annotations

from collections.abc import Iterator

from isoform.train.fields import fields_of
from isoform.train.kind import TRAINERS, trainer_named
from isoform.train.recipe import Recipe, about_recipe, recipe_names
from isoform.train.reference.described import Section, sections

__all__ = ["page"]

TOP = """# Recipes

Written by `python -m isoform.train.reference.page > docs/recipes.md` from the dataclasses that read recipes. Change those, not this page.

A recipe is a TOML file that says everything that decides the result of `isoform train`: data, sizes, objective, optimiser, seed, threads.

```console
$ isoform recipe list                                # the recipes that are shipped
$ isoform recipe show digits > mine.toml             # one of them, to change
$ isoform recipe new --data photos/ -o mine.toml     # one that fits your own data, with comments
$ isoform train mine.toml --data photos/ -o bundle/ --steps 2000 --network.layers 12
```

Every field, except those of tasks, has a flag that overrides it: `--steps`, `--network.layers`; `isoform train --help` lists them.
A mistake, such as an unknown field or a number out of its range, is one line that names the place.
The resolved recipe (defaults filled in, flags applied) is stored in the bundle."""
KINDS = {
    "mixture": "The kind of a recipe that names none: layers mix shared template blocks, and a signature says how (Compositional Models).",
    "allocation": 'Begins with `kind = "allocation"`: tasks choose among the components of modular layers (Gumbel-Matrix).',
    "alignment": 'Begins with `kind = "alignment"`: networks of different architectures are made of shared blocks (MUIR).',
}


def page() -> str:
    """Return the page, Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from [TOP, "", "## Shipped recipes", "", "| name | what it trains |", "|---|---|"]
    yield from (
        f"| [`{name}`](../train/recipes/{name}.toml) | {_cell(about_recipe(name))} |" for name in recipe_names()
    )
    yield from ["", "## Fields of every recipe"]
    common = set(fields_of(Recipe))
    yield from _tables(sections(Recipe), only=common)
    for kind in TRAINERS:
        yield from ["", f"## Kind `{kind}`", "", KINDS.get(kind, f'Begins with `kind = "{kind}"`.')]
        found = [
            section for section in sections(trainer_named(kind).recipe) if section.name.split(".")[0] not in common
        ]
        yield from _tables(found, only=set(fields_of(trainer_named(kind).recipe)) - common)


def _tables(found: list[Section], *, only: set[str]) -> Iterator[str]:
    """Yield a table for each section; of the file's top only some fields."""
    for section in found:
        fields = [field for field in section.fields if section.name or field.name in only]
        if not fields:
            continue
        if section.name:
            yield from ["", f"### `{section.heading}`", "", section.about]
        yield from ["", "| field | value | range | default | meaning |", "|---|---|---|---|---|"]
        for field in fields:
            default = f"`{field.default}`" if field.default else "" if "[" in field.type else "required"
            yield f"| `{field.name}` | {' | '.join(map(_cell, (field.type, field.range, default, field.meaning)))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
