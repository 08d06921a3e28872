"""``isoform recipe``: list and show the recipes that are shipped, and write one that fits a folder of samples."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from isoform.runtime.errors import UsageError
from isoform.runtime.formats import files
from isoform.runtime.samples.names import text_of
from isoform.train.recipe import about_recipe, recipe_names, recipe_text

__all__ = ["add_arguments_recipe", "run_recipe"]


def add_arguments_recipe(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform recipe``'s arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="list the recipes that are shipped")
    one = actions.add_parser("show", help="print a recipe that is shipped")
    one.add_argument("name", metavar="NAME", help="a recipe from 'isoform recipe list'")
    new = actions.add_parser(
        "new", help="look at a folder of samples and write a recipe that fits it",
        epilog="example:\n  isoform recipe new --data recordings/ --window '2.5 s' -o mine.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    new.add_argument(
        "--data", type=Path, required=True, metavar="DIR",
        help="a folder with a folder per class of images, recordings (.csv, .tsv) or sounds (.wav), perhaps in train/ and test/; a table with a "
        "column label; or an .npz with arrays x and labels",
    )  # fmt: skip
    new.add_argument("-o", "--output", type=Path, metavar="FILE", help="the TOML file to write (default: print it)")
    new.add_argument("--force", action="store_true", help="replace a file that exists")
    new.add_argument(
        "--window",
        metavar="LENGTH",
        help="rows of a recording or frames of a sound in a sample, or seconds: '2.5 s' (default: by their lengths)",
    )
    new.add_argument(
        "--stride",
        metavar="LENGTH",
        help="the same between the beginnings of two windows (default: windows follow each other)",
    )
    parser.epilog = "example:\n  isoform recipe new --data photos/ -o mine.toml && isoform train mine.toml --data photos/ -o bundle/"


def run_recipe(arguments: argparse.Namespace) -> None:
    """Run one action; the recipe, or the list, on stdout."""
    if arguments.action == "list":
        width = max(map(len, recipe_names()))
        for name in recipe_names():
            print(
                textwrap.fill(
                    f"{name:{width}}  {about_recipe(name)}",
                    80,
                    subsequent_indent=" " * (width + 2),
                    break_on_hyphens=False,
                )
            )
    elif arguments.action == "show":
        print(recipe_text(arguments.name), end="")
    else:
        _new(arguments)


def _new(arguments: argparse.Namespace) -> None:
    from isoform.train.suggest.sizes import sizes_for
    from isoform.train.suggest.survey import surveyed
    from isoform.train.suggest.text import command_for, found_in, recipe_for

    output: Path | None = arguments.output
    if output is not None and output.exists() and not arguments.force:
        raise UsageError(f"{output} exists; choose another --output, or replace it with --force")
    print(f"looking at {arguments.data}", file=sys.stderr)
    survey = surveyed(arguments.data)
    sizes = sizes_for(survey, window=arguments.window, stride=arguments.stride)
    text = recipe_for(survey, sizes, data=arguments.data, output=output)
    print(found_in(survey, sizes) + survey.account.advice(), file=sys.stderr)
    if output is None:
        print(text, end="")
    else:
        files.write_bytes(output, text.encode())
        print(f"wrote {text_of(output)}; next: {command_for(arguments.data, output)}", file=sys.stderr)
