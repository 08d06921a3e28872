"""The sizes that are chosen for data, and the recipes that are shipped."""

import math

import pytest
from support import ROOT, isoform_here

from isoform.runtime.samples.account import Account
from isoform.train.recipe import recipe_names
from isoform.train.suggest.sizes import sizes_for, steps_for
from isoform.train.suggest.survey import Survey


def of(what, shape, **fields) -> Survey:
    """A survey of two classes."""
    return Survey(what=what, labels=("a", "b") * 8, groups=None, shape=shape, account=Account(), **fields)


@pytest.mark.parametrize(
    ("size", "expected", "kernel"),
    [((28, 28), (28, 28), (2, 2)), ((32, 32), (32, 32), (2, 2)), ((300, 400), (224, 224), (14, 14)), ((480, 1280), (84, 224), (6, 14)),
     ((5, 5), (5, 5), (1, 1)), ((101, 97), (98, 98), (7, 7)), ((1, 700), (1, 224), (1, 14))],
)  # fmt: skip
def test_sizes_of_images(size, expected, kernel) -> None:
    """The kernel divides the size, there are at most 16 positions in each direction, and only what is clearly not square is not."""
    sizes = sizes_for(of("image", (3, *size)))
    assert sizes.input_shape == (3, *expected)
    assert sizes.adapter_kernel == kernel


def test_the_kernel_divides_whatever_comes() -> None:
    """For images of every size, and arrays and windows, which are not resized."""
    for side in range(1, 300):
        image, window = (
            sizes_for(of("image", (1, side, side))),
            sizes_for(of("recording", (2, 1, 1), lengths=(side,) * 16)),
        )
        array = sizes_for(of("array", (2, 1, side)))
        assert array.input_shape == (2, 1, side)
        for sizes, most in ((image, 16), (window, 128), (array, side)):
            high, wide = sizes.input_shape[2], sizes.adapter_kernel[1]
            assert high % wide == 0
            assert 1 <= high // wide <= most
        assert window.input_shape[2] <= min(128, side)
        assert image.input_shape[2] == pytest.approx(min(224, side), rel=0.07, abs=1)


def test_every_class_has_a_window() -> None:
    """The window is as short as the longest recording of every class, and most recordings have one."""
    sizes = sizes_for(of("recording", (2, 1, 1), lengths=(500, 40) * 8))
    assert sizes.input_shape == (2, 1, 40)
    assert sizes.samples(of("recording", (2, 1, 1), lengths=(500, 40) * 8)) == [12, 1] * 8
    single = Survey(
        what="recording", labels=("a", "b"), groups=None, shape=(2, 1, 1), lengths=(50, 900), account=Account()
    )
    assert sizes_for(single).samples(single) == [6, 112]


def test_steps_follow_the_number_of_samples() -> None:
    """Twenty epochs, within bounds, rounded up to two digits."""
    assert [steps_for(samples, 32) for samples in (10, 640, 1886, 3720, 100_000)] == [400, 400, 1200, 2400, 10_000]
    for samples in range(700, 15_000, 321):
        assert 20 * samples / 32 <= steps_for(samples, 32) < 1.1 * 20 * samples / 32 + 1
        assert math.log10(steps_for(samples, 32)) < 4


def test_shipped_recipes_are_listed_and_shown() -> None:
    """A description of each in 80 columns, and the file's text; another name is refused with those that there are."""
    listed = isoform_here("recipe", "list").stdout
    assert max(map(len, listed.splitlines())) <= 80
    for name in recipe_names():
        assert f"{name} " in listed
        text = (ROOT / "train" / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        assert isoform_here("recipe", "show", name).stdout == text
    said = isoform_here("recipe", "show", "imagenet")
    assert said.returncode == 2
    assert "no recipe 'imagenet' is shipped; choose one of digits, digits-alignment" in said.stderr
