"""What a network takes: descriptions that are refused, and samples."""

import numpy as np
import pytest

from isoform.runtime.errors import InputError, SpecError
from isoform.runtime.inputs import Input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"what": "smell", "shape": (3,)}, "is 'smell', but one of image, window, vector, tokens was expected"),
        ({"what": "image", "shape": (3, 8)}, "channels, height, width were expected"),
        ({"what": "vector", "shape": (0,)}, "each 1 to 65536 or open"),
        ({"what": "vector", "shape": (True,)}, "each 1 to 65536 or open"),
        ({"what": "window", "shape": (3, None), "shortest": 9, "longest": 8}, "open lengths are 9 to 8"),
        ({"what": "image", "shape": (9999, 9999, 9999)}, "numbers, but at most"),
        ({"what": "tokens", "shape": (None,)}, "the vocabulary is None"),
        ({"what": "tokens", "shape": (None,), "vocabulary": 0}, "the vocabulary is 0"),
        ({"what": "vector", "shape": (4,), "vocabulary": 9}, "the vocabulary is 9"),
        ({"what": "vector", "shape": (4,), "name": "a b"}, "letters, digits and _ were expected"),
        ({"what": "vector", "shape": (4,), "name": "label"}, "'label', which is reserved"),
    ],
)
def test_descriptions_that_are_refused(fields, message) -> None:
    """One line says which field is out of range, from Python and from a file."""
    with pytest.raises(SpecError, match=message):
        Input(**fields)
    with pytest.raises(SpecError, match=message):
        Input.from_json({"name": "x", **fields, "shape": list(fields["shape"])})


@pytest.mark.parametrize(
    "value", [None, [], {"name": "x", "what": "vector"}, {"name": "x", "what": "vector", "shape": 3}]
)
def test_what_is_no_description(value) -> None:
    """Something else than an object with name, what and shape."""
    with pytest.raises(SpecError, match="an input"):
        Input.from_json(value)


@pytest.mark.parametrize(
    "takes",
    [
        Input(what="image", shape=(3, 8, 8)),
        Input(what="window", shape=(6, None), shortest=4, longest=32, name="motion"),
        Input(what="vector", shape=(5,), name="x"),
        Input(what="tokens", shape=(None,), vocabulary=11, longest=7),
    ],
    ids=lambda takes: takes.what,
)
def test_samples(takes) -> None:
    """Random ones are taken as they are; of another type or order in memory they are converted; a description is read back."""
    assert Input.from_json(takes.to_json()) == takes
    x = takes.random(np.random.default_rng(0), 4)
    assert takes.fits(x.shape[1:])
    assert takes.checked(x) is x
    assert np.shares_memory(takes.checked(x[1:3]), x)
    other = takes.checked(np.asfortranarray(x[::2]).astype(np.float64 if x.dtype.kind == "f" else np.int16))
    assert other.dtype == takes.dtype
    assert other.flags.c_contiguous
    assert np.array_equal(other, x[::2])
    assert takes.checked(x[:0]).shape == x[:0].shape
    assert takes.nbytes >= x[0].nbytes


def test_open_lengths() -> None:
    """From the shortest to the longest, the same for all samples of a batch."""
    takes = Input(what="window", shape=(2, None), shortest=3, longest=5)
    for steps in (3, 4, 5):
        assert takes.checked(np.zeros((1, 2, steps))).shape == (1, 2, steps)
    for shape in ((1, 2, 2), (1, 2, 6), (1, 3, 4), (2, 4), ()):
        with pytest.raises(InputError, match=r"\(n, 2, 3…5\) was expected: n samples of channels, steps"):
            takes.checked(np.zeros(shape))
    assert takes.largest == (2, 5)
    assert takes.nbytes == 40
