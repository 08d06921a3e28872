"""Labels: texts are names, whole numbers are indices, and what could be both is refused wherever it comes in."""

import time

import numpy as np
import pytest
from support import ROOT, SMALL, make_bundle

from isoform.runtime.arithmetic import average
from isoform.runtime.cli import main
from isoform.runtime.errors import InputError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.learn.labels import label_indices
from isoform.runtime.learn.source import Source
from isoform.runtime.runtime import Runtime
from isoform.train.data.formats.digits import digits

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
            "1 may be the class '1' or the class at index 1, '2'; give class names as strings",
        ),
        (np.array([4, 5, 5, 4]), FROM_ONE, "4 may be the class '4' or the class at index 4, '5'"),
        ([np.int32(6), np.uint8(5), 6, 5], FROM_ONE, "5 may be the class '5'"),
        ([6, 0, 6, 0], FROM_ONE, "class '1' has index 0"),
        ([0, 1, 2, 3], ("0", "1", "10", "2"), "2 may be the class '2' or the class at index 2, '10'"),
        ([0, 1, 0, 1], ("walk", "07"), "class '07' has index 1"),
        ([0, 1, 0, 1], ("１", "walk"), "class '１' has index 0"),
        (["1", 2, "3", 4], FROM_ONE, "strings mixed with other types"),
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
    with Runtime.open(bundle, engine="reference") as runtime:
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
    assert "give class names as strings" in shown


@pytest.mark.trust
@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (["é", "e\u0301"], InputError, r"'\\xe9' of place 0 .* 'e\\u0301' of place 1 .* differ only in spaces"),
        (["a", "a "], InputError, "'a' of place 0 .* 'a ' of place 1"),
        (["a", " "], InputError, "place 1 of classes has the label ' '"),
        (["a", "a"], InputError, "distinct strings of 1 to 256 characters"),
        (["a", 1], InputError, "distinct strings"),
        ("123", UsageError, "classes is '123', but a list of names was expected"),
        ((name for name in "ab"), UsageError, "classes is <generator .*, but a list of names"),
        ({"a", "b"}, UsageError, "a list of names"),
        ({"a": 0, "b": 1}, UsageError, "a list of names"),
        (7, UsageError, "classes is 7, but"),
        ([["a"], ["b", "c"]], InputError, "distinct strings"),
        (np.array("ab"), UsageError, "a list of names"),
    ],
)
def test_names_of_new_classes(classes, error, message) -> None:
    """Names that become the same, and what is no list of names, are one line; before anything is learnt."""
    with Runtime.open(ROOT / "docs" / "examples" / "bundle", engine="reference") as runtime:
        for learn in (runtime.fit, runtime.personalize):
            with pytest.raises(error, match=message):
                learn(np.zeros((2, 1, 32, 32), np.float32), ["a", "b"], classes=classes)


@pytest.mark.trust
def test_names_are_compared_alike_everywhere() -> None:
    """Which bases labels mean, which class statistics a head takes and which rows are averaged do not depend on spelling."""
    bundle = make_bundle(SMALL)
    names = {"a": ("x", "y", "z"), "b": ("e\u0301", "y ", "z")}
    signatures = {task: bundle.signatures[task].replace(labels=labels) for task, labels in names.items()}
    bundle = Bundle.create(spec=SMALL, tensors=bundle.tensors, signatures=signatures, training={})
    runtime = Runtime(bundle, threads=1, cache_bytes=0, engine="reference")
    with pytest.raises(UsageError, match="the reference engine cannot learn"):  # so the labels were those of task b
        runtime.fit(np.zeros((2, 1, 8, 8), np.float32), ["é", "y"])
    with pytest.raises(UsageError, match="labels are indices, but the bases of a, b have different classes"):
        runtime.fit(np.zeros((2, 1, 8, 8), np.float32), [0, 1])
    source = Source(np.ones((2, 4)), np.arange(24, dtype=np.float32).reshape(3, 2, 4), {})
    assert np.array_equal(source.with_labels(names["b"], ("y", "new", "é")).classes[[0, 2]], source.classes[[1, 0]])
    order = [1, 2, 0]
    parts = {**signatures["b"].parts, **{n: signatures["b"].parts[n][order] for n in ("logits.weight", "logits.bias")}}
    other = signatures["b"].replace(parts=parts, labels=("y", "z", "é"))
    found = average(bundle, [signatures["b"], other])
    assert np.allclose(found.parts["logits.weight"], signatures["b"].parts["logits.weight"])


@pytest.mark.trust
def test_a_long_wrong_label_is_refused_soon() -> None:
    """A label of 400,000 characters among thousands of classes: compared once, not once for each class, and quoted in part."""
    names, began = [f"class {number}" for number in range(5000)], time.monotonic()
    with pytest.raises(InputError) as refused:
        label_indices(["e\u0301" * 200_000, "class 1"], names, samples=2)
    assert time.monotonic() - began < 5
    assert "é" * 41 not in str(refused.value)
    assert "e\u0301" * 41 not in str(refused.value)
