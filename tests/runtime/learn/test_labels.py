"""Labels: texts are names, whole numbers are indices, and what could be both is refused wherever it comes in."""

import time

import numpy as np
import pytest
from support import ROOT

from isoform.runtime.cli import main
from isoform.runtime.errors import InputError
from isoform.runtime.learn.personalize import label_indices
from isoform.runtime.runtime import Runtime
from isoform.train.data.digits import digits

DIGITS = tuple("0123456789")
FROM_ONE = tuple(map(str, range(1, 7)))
WALKING = ("walk", "run")


@pytest.mark.trust
@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (
            [1, 2, 3, 1],
            FROM_ONE,
            "1 may be the class '1' or the class at index 1, '2'; give the names of the classes, as texts",
        ),
        (np.array([4, 5, 5, 4]), FROM_ONE, "4 may be the class '4' or the class at index 4, '5'"),
        ([np.int32(6), np.uint8(5), 6, 5], FROM_ONE, "5 may be the class '5'"),
        ([6, 0, 6, 0], FROM_ONE, "class '1' has index 0"),
        ([0, 1, 2, 3], ("0", "1", "10", "2"), "2 may be the class '2' or the class at index 2, '10'"),
        ([0, 1, 0, 1], ("walk", "07"), "class '07' has index 1"),
        ([0, 1, 0, 1], ("１", "walk"), "class '１' has index 0"),
        (["1", 2, "3", 4], FROM_ONE, "texts and other things mixed"),
        ([1, True, 0, 1], DIGITS, "labels are bool.*sample 1 has True"),
    ],
)
def test_a_whole_number_that_may_be_a_name_is_refused(labels, names, message) -> None:
    """One line with both readings and the remedy, whatever kind of whole number it is."""
    with pytest.raises(InputError, match=message):
        label_indices(labels, names, samples=4)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (["1", "6", "2"], FROM_ONE, [0, 5, 1]),
        (np.array(["1", "6", "2"], dtype=object), FROM_ONE, [0, 5, 1]),
        ([1, 6, 2], DIGITS, [1, 6, 2]),
        (np.array([1, 0, 1], dtype=np.uint64), WALKING, [1, 0, 1]),
        ((0, 1, 0), ("walk", "1"), [0, 1, 0]),
    ],
)
def test_what_is_not_ambiguous_is_read(labels, names, expected) -> None:
    """Names as texts always; indices where no class is named by another whole number."""
    assert label_indices(labels, names, samples=3).tolist() == expected


@pytest.mark.trust
@pytest.mark.parametrize("verb", ["personalize", "adapt"])
def test_whole_numbers_of_a_file(tmp_path, capsys, verb) -> None:
    """In an .npz they are names; refused only where they could be the indices of other classes as well."""
    bundle = ROOT / "docs" / "examples" / "bundle"
    with Runtime.open(bundle, engine="numpy") as runtime:
        runtime.bundle.signatures["plain"].replace(labels=tuple(map(str, range(1, 11)))).save(tmp_path / "start")
    images, labels = digits()
    words = [verb, str(bundle), "--signature", str(tmp_path / "start"), "-o", str(tmp_path / "me")]
    words += ["--steps", "1", "--parts", "head"] if verb == "personalize" else ["--method", "lame"]
    for shift, code in ((0, 2), (1, 0)):
        rows = np.flatnonzero(labels[:60] > 0) if shift == 0 else np.arange(60)
        np.savez(tmp_path / "data.npz", x=images[rows], labels=labels[rows] + shift)
        assert main([*words, "--data", str(tmp_path / "data.npz")]) == code
    shown = capsys.readouterr().err
    assert "data.npz: labels are whole numbers, and" in shown
    assert "give the names of the classes, as texts" in shown


@pytest.mark.trust
def test_a_long_wrong_label_is_refused_soon() -> None:
    """A label of 400,000 characters among thousands of classes: compared once, not once for each class, and quoted in part."""
    names, began = [f"class {number}" for number in range(5000)], time.monotonic()
    with pytest.raises(InputError) as refused:
        label_indices(["e\u0301" * 200_000, "class 1"], names, samples=2)
    assert time.monotonic() - began < 5
    assert "é" * 41 not in str(refused.value)
    assert "e\u0301" * 41 not in str(refused.value)
