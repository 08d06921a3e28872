"""The text of a new recipe: TOML with comments that say what was found, and why each number is what it is."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from isoform.runtime.errors import DataError
from isoform.runtime.samples.account import plural
from isoform.train.data.recipe import DataRecipe
from isoform.train.data.samples import Split
from isoform.train.data.splits import hold_out
from isoform.train.suggest.sizes import EPOCHS, LEAST, MOST, Sizes, steps_for
from isoform.train.suggest.survey import Survey

__all__ = ["command_for", "found_in", "recipe_for"]

BATCH = 32
WIDTH = 120
"""Columns of the text."""
NAMED = 8
"""Classes that are listed, at most."""
UNITS = {"image": "image", "recording": "window", "sound": "window", "array": "sample"}


def recipe_for(survey: Survey, sizes: Sizes, *, data: Path, output: Path | None) -> str:
    """Write a recipe of kind ``mixture`` with one task, named after the folder.

    Args:
        survey: What is in the folder.
        sizes: What ``sizes_for`` chose.
        data: The folder, as the user named it.
        output: Where the recipe will be written, for its first line; None if that is not known.

    Raises:
        DataError: If a class has too few samples to train on some and test on others.
    """
    return "\n".join(_lines(survey, sizes, data, output)) + "\n"


def command_for(data: Path, output: Path | None) -> str:
    """Return the command that trains by the recipe."""
    return f"isoform train {shlex.quote(str(output or 'recipe.toml'))} --data {shlex.quote(str(data))} -o bundle/"


def found_in(survey: Survey, sizes: Sizes) -> str:
    """Return what was found, in one sentence without a full stop."""
    count, unit = sum(sizes.samples(survey)), UNITS[survey.what]
    names = sorted({*survey.labels})
    listed = ", ".join(names[:NAMED]) + (", …" if names[NAMED:] else "")
    text = plural(count, unit)
    if survey.what in ("recording", "sound"):
        text += f" of {plural(len(survey.labels), survey.what)}"
    text += f" in {plural(len(names), 'class')} ({listed})"
    if survey.groups is not None and _named(survey):
        text += f" of {plural(len({*survey.groups}), 'group')}"
    left = survey.account.left
    return text + (
        "" if not left else "; left out: " + ", ".join(plural(number, what) for what, number in left.items())
    )


def _named(survey: Survey) -> bool:
    """Return whether the data name groups, so that they are more than recordings."""
    return survey.what != "recording" or bool(survey.account.groups)


def _lines(survey: Survey, sizes: Sizes, data: Path, output: Path | None) -> Iterator[str]:
    channels, height, width = sizes.input_shape
    counts = sizes.samples(survey)
    split, held, training = _split(survey, counts)
    steps, folder = steps_for(training, BATCH), shlex.quote(str(data))
    yield f"# {_printable(command_for(data, output))}"
    yield _comment(
        f"Written by 'isoform recipe new --data {folder}', which found {found_in(survey, sizes)}{' in train' * survey.halves}."
    )
    yield _comment("All fields: isoform train --help, or docs/recipes.md.")
    epochs = steps * BATCH / training
    yield _field(
        "steps",
        steps,
        f"{epochs:,.0f} epochs of {training:,} training samples: {EPOCHS}, but {LEAST} to {MOST:,} steps",
    )
    yield _field("batch", BATCH, "samples per step")
    yield _field("seed", 0)
    yield from ["", "[data]", _field("input_shape", [channels, height, width], _shape(survey, sizes))]
    if survey.columns:
        yield _comment("The channels. If there are more or fewer, change the first number of input_shape as well.")
        yield _field("columns", [*survey.columns])
    if sizes.stride:
        yield _field("stride", sizes.stride, "between the beginnings of two windows")
    elif survey.what in ("recording", "sound"):
        yield _comment(f"stride = {max(1, width // 2)}: windows that overlap by half, twice as many of them")
    yield _field("split", split, held)
    if not survey.halves:
        yield _field("test_fraction", DataRecipe().test_fraction, "the share held out")
    shifted = "augmentation: batches are shifted by up to so many pixels, rows or frames"
    yield _field("shift", sizes.shift, shifted if sizes.shift else "no augmentation")
    if sizes.sound is not None:
        yield from ["", _comment("How sounds become spectrograms: frames of 25 ms, every 10 ms."), "[data.sound]"]
        yield from (_field(name, value) for name, value in dataclasses.asdict(sizes.sound).items())
    yield from ["", "[network]"]
    yield _field(
        "adapter_kernel", [*sizes.adapter_kernel], f"divides the input: the layers compute at {sizes.grid} positions"
    )
    one = "; 1, as there is one position" if sizes.kernel == 1 else ""
    yield _field("kernel", sizes.kernel, f"side of the depthwise convolutions{one}")
    yield _field("layers", 8, "time of a prediction and bytes of a signature grow with them")
    yield _field("templates", 4, "blocks that the layers choose from; they are in the bundle, not in a signature")
    yield _field("channels", 24, "multiples of 8, which cost least; time and bytes grow with them")
    yield from ["", f"[tasks.{_task(data)}]", _field("data", "files")]
    if survey.path:
        yield _field("path", survey.path, "below --data")


def _printable(text: str) -> str:
    """Return a text without characters that would end a comment."""
    return "".join(one if one.isprintable() else "?" for one in text)


def _comment(text: str) -> str:
    """Return a comment, of several lines if it is long."""
    return textwrap.fill(
        _printable(text), WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )  # fmt: skip


def _field(name: str, value: object, why: str = "") -> str:
    text = f"{name} = {json.dumps(value)}"
    if not why:
        return text
    line = f"{text:28} # {_printable(why)}"
    return line if len(line) <= WIDTH else f"{_comment(why)}\n{text}"


def _shape(survey: Survey, sizes: Sizes) -> str:
    _, height, width = survey.shape
    if survey.what == "image":
        colour = "grey" if survey.shape[0] == 1 else "colours"
        return f"{colour}, height, width: the median image has {width}×{height} pixels; others are resized"
    if survey.what == "recording":
        lasting = "" if survey.rate is None else f", {sizes.input_shape[2] / survey.rate:.3g} s"
        return f"channels, 1, rows of a window{lasting}: recordings have {min(survey.lengths):,} to {max(survey.lengths):,} rows"
    if sizes.sound is not None:
        seconds = sizes.sound.samples(sizes.input_shape[2]) / sizes.sound.rate
        median = np.median(survey.lengths) / (survey.rate or 1)
        return f"1, bands, frames of a window, {seconds:.3g} s: the median sound has {median:.3g} s; silence is added to shorter ones"
    return "features, 1, 1" if survey.vectors else "channels, height, width of the array's samples"


def _split(survey: Survey, counts: list[int]) -> tuple[str, str, int]:
    """Return ``data.split``, what it does, and the number of training samples. Raises ``DataError`` as ``hold_out``."""
    classes = sorted({*survey.labels})
    labels = np.repeat([classes.index(label) for label in survey.labels], counts)
    if survey.halves:
        return "auto", "train and test are there", len(labels)
    groups = survey.groups
    if groups is None and survey.what == "sound" and max(counts) > 1:
        groups = tuple(map(str, range(len(counts))))  # each file is a group, as its windows are alike
    half = Split(
        images=np.empty((len(labels), 0)), labels=labels, groups=None if groups is None else np.repeat(np.array(groups), counts),
        unit="group" if _named(survey) and survey.groups is not None else "recording",
    )  # fmt: skip
    recipe, why = DataRecipe(), ""
    if groups is not None:
        try:
            rest, _ = hold_out(half, classes, recipe.test_fraction, recipe, what="testing")
            return (
                "auto",
                f"whole {half.unit}s are held out for testing, so that the accuracy is that on new ones",
                len(rest.labels),
            )
        except DataError as problem:
            why = f"; not whole {half.unit}s: {str(problem).split(',')[0].split(';')[0]}"
            recipe = DataRecipe(split="samples")
    rest, _ = hold_out(half, classes, recipe.test_fraction, recipe, what="testing")
    return recipe.split, f"samples of every class are held out for testing{why}", len(rest.labels)


def _task(data: Path) -> str:
    """Return a name of the task."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", data.absolute().stem).strip("-_")[:64]
    return name or "mine"
