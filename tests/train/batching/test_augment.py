"""Augmentation: every change is the one that its field promises, different for every sample and the same for the same step."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from support import isoform

from isoform.runtime.errors import RecipeError
from isoform.train.batching.augment import augmented, hits
from isoform.train.batching.batches import Batches
from isoform.train.data.recipe import AugmentTable, DataRecipe
from isoform.train.data.samples import Split
from isoform.train.fields import read_table

FIELDS = [field.name for field in dataclasses.fields(AugmentTable)]
IMAGES = torch.rand((16, 3, 12, 20), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 4


def change(x=IMAGES, seed=0, **strengths):
    """Samples and labels after a change."""
    return augmented(
        x, LABELS[: len(x)], AugmentTable(**strengths), classes=4, draws=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("field", FIELDS)
def test_a_change_is_drawn_for_every_sample_and_can_be_drawn_again(field) -> None:
    """The same draws give the same numbers, others give others; equal samples become different ones; a strength of 0 changes nothing."""
    same = IMAGES[:1].expand(16, -1, -1, -1).contiguous()
    x, y = change(same, **{field: 0.5})
    assert x.shape == same.shape
    assert torch.isfinite(x).all()
    assert torch.equal(x, change(same, **{field: 0.5})[0])
    assert not torch.equal(x, change(same, seed=1, **{field: 0.5})[0]) or field == "mixup"
    if field == "mixup":  # mixing equal samples changes their labels alone
        assert y.shape == (16, 4)
        torch.testing.assert_close(y.sum(1), torch.ones(16))
    else:
        assert torch.equal(y, LABELS)
        assert len(torch.unique(x.flatten(1), dim=0)) > (2 if field == "flip" else 8) - 1
    assert torch.equal(change(same)[0], same)


def test_images_are_mirrored_turned_and_cropped() -> None:
    """With certainty an image is its mirror image; what is turned or enlarged is made of the image's own values, and a gradient keeps its slope."""
    torch.testing.assert_close(change(flip=1.0)[0], IMAGES.flip(3))
    ramp = torch.linspace(0, 1, 20).expand(16, 1, 12, 20).contiguous()
    zoomed = change(ramp, zoom=0.5)[0]
    slope = zoomed[:, 0, 6, 15] - zoomed[:, 0, 6, 4]
    whole = ramp[0, 0, 6, 15] - ramp[0, 0, 6, 4]
    assert (slope <= whole + 1e-5).all()
    assert (slope >= 0.5 * whole - 1e-5).all()
    assert slope.std() > 0.01
    turned = change(ramp, turn=90.0)[0]
    assert (turned >= -1e-6).all()
    assert (turned <= 1 + 1e-6).all()
    # upright or turned by 90°, the values of a ramp's middle stay what they were
    torch.testing.assert_close(turned[:, 0, 5:7, 9:11].mean((1, 2)), torch.full((16,), 0.5), atol=0.02, rtol=0)
    bright = change(colour=0.4)[0]
    assert 0 <= bright.min() <= bright.max() <= 1


def test_windows_keep_their_ends_and_order() -> None:
    """Time that runs at other speeds begins and ends as before and never backwards; a gain is one factor per channel."""
    ramp = torch.linspace(-1, 1, 64).expand(16, 2, 1, 64).contiguous()
    warped = change(ramp, warp=0.6)[0]
    torch.testing.assert_close(warped[..., [0, -1]], ramp[..., [0, -1]])
    assert (warped.diff(dim=3) >= -1e-6).all()
    assert (warped - ramp).abs().max() > 0.05
    gained = change(ramp, gain=0.3)[0] / ramp
    torch.testing.assert_close(gained, gained[..., :1].expand_as(gained))
    assert len(gained[..., 0].unique()) > 16


def test_masks_and_noise_have_their_sizes() -> None:
    """A mask covers whole bands or frames, at most its share, with the sample's mean; cutout a rectangle; noise has its deviation."""
    for field, axis in (("mask_time", 2), ("mask_bands", 1)):
        masked = change(IMAGES[:, :1], **{field: 0.4})[0][:, 0]
        covered = (masked == IMAGES[:, :1].mean((1, 2, 3))[:, None, None]).all(axis=3 - axis)
        assert covered.any()
        assert (covered.float().mean(1) <= 0.4 + 1 / 12).all()
        torch.testing.assert_close(
            masked[~covered.unsqueeze(3 - axis).expand_as(masked)],
            IMAGES[:, 0][~covered.unsqueeze(3 - axis).expand_as(masked)],
        )
    cut = change(cutout=0.5)[0] != IMAGES
    assert 0 < cut.float().mean() <= 0.25 + 0.05
    wide = torch.rand((4, 2, 200, 200), generator=torch.Generator().manual_seed(1))
    added = change(wide, noise=0.5)[0] - wide
    np.testing.assert_allclose(added.std() / wide.std(), 0.5, rtol=0.02)


def test_colours_change_in_three_ways() -> None:
    """Brightness, contrast and saturation differ between samples: the mean, what pixels differ by, and what channels differ by."""
    same = (0.4 + 0.2 * IMAGES[:1]).expand(16, -1, -1, -1).contiguous()
    changed = change(same, colour=0.2)[0]
    grey = changed.mean(1)
    mean, spread, chroma = (
        grey.mean((1, 2)),
        grey.std((1, 2)) / grey.mean((1, 2)),
        (changed - grey[:, None]).std((1, 2, 3)) / grey.std((1, 2)),
    )
    for figure in (mean, spread, chroma):
        assert figure.std() / figure.mean() > 0.03


def test_turning_keeps_distances() -> None:
    """A spot stays as far from the middle, in pixels, of an image that is wider than high; and it goes to other places."""
    down, across = torch.meshgrid(torch.arange(24.0), torch.arange(40.0), indexing="ij")
    spot = torch.exp(-((down - 11.5) ** 2 + (across - 26.5) ** 2) / 4)
    turned = change(spot.expand(16, 1, -1, -1).contiguous(), turn=180.0)[0][:, 0]
    weight = turned.sum((1, 2))
    row, column = (turned * down).sum((1, 2)) / weight - 11.5, (turned * across).sum((1, 2)) / weight - 19.5
    torch.testing.assert_close(torch.hypot(row, column), torch.full((16,), 7.0), atol=0.2, rtol=0)
    assert row.std() > 2
    assert column.std() > 2


def test_mixed_samples_have_mixed_labels() -> None:
    """With mixup a sample and its label are mixed by the same share, with a sample of the other label; a hit is the label of the larger one."""
    x, y = change(mixup=0.5)
    mixed = 0
    for number in range(16):
        own = float(y[number, LABELS[number]])
        others = [label for label in range(4) if y[number, label] > 0 and label != LABELS[number]]
        assert own > 0
        if others:
            (other,) = others
            rest = (x[number] - own * IMAGES[number]) / (1 - own)
            assert min(float((rest - image).abs().max()) for image in IMAGES[other == LABELS]) < 1e-3
            mixed += 1
    assert mixed > 4
    logits = torch.eye(4)[LABELS]
    assert hits(logits, LABELS).all()
    assert torch.equal(hits(logits, y), y.argmax(1) == LABELS)


@pytest.mark.parametrize(("data", "field", "what"), [
    ({"input_shape": [3, 1, 64]}, "turn", "windows"), ({"input_shape": [3, 1, 64]}, "mask_bands", "windows"),
    ({"input_shape": [9, 1, 1]}, "noise", "feature vectors"),
    ({"input_shape": [1, 40, 98], "sound": {}}, "colour", "spectrograms"),
])  # fmt: skip
def test_changes_that_cannot_be_are_refused(data, field, what) -> None:
    """A colour of a spectrogram, a turn of a window, noise of a vector: one line with the field."""
    with pytest.raises(RecipeError, match=f"data, augment.{field} cannot change {what}.*; leave it out"):
        read_table(DataRecipe, {**data, "augment": {field: 0.1}}, "data")


def test_batches_are_changed_by_their_step() -> None:
    """A step's batch is the same whenever it is asked for; samples that are no grids of numbers are refused."""
    split = Split(images=IMAGES.numpy(), labels=LABELS.numpy())
    table = AugmentTable(turn=10.0, noise=0.1)
    made = [Batches(split, batch=8, shift=1, seed=0, task=0, augment=table, classes=4) for _ in range(2)]
    first = [made[0][step][0] for step in (0, 1, 2)]
    assert torch.equal(first[2], made[1][2][0])
    assert not torch.equal(first[0], first[1])
    tokens = Split(images=np.zeros((4, 9), dtype=np.int64), labels=np.zeros(4, dtype=np.int64))
    with pytest.raises(RecipeError, match=r"samples are int64 of shape \(9,\); leave it out"):
        Batches(tokens, batch=2, shift=0, seed=0, task=0, augment=table)


@pytest.mark.parametrize("name", ["digits", "digits-allocation", "digits-alignment"])
def test_every_kind_trains_with_all_changes(name, tmp_path) -> None:
    """By the command line, with mixup's labels; the bundle says what was done."""
    flags = [word for field in FIELDS for word in (f"--data.augment.{field}", "0.1")]
    search = {
        "digits": ["--network.layers", "2", "--network.bn_directions", "0"],
        "digits-alignment": ["--search.first", "0", "--search.final", "0", "--search.generation", "1"],
    }.get(name, [])
    isoform("train", name, "-o", tmp_path / "b", "--steps", "3", "--threads", "1", *flags, *search)
    recipe = json.loads((tmp_path / "b" / "bundle.json").read_text())["training"]["recipe"]
    assert recipe["data"]["augment"] == dict.fromkeys(FIELDS, 0.1)
