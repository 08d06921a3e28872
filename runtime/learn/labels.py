"""Labels → indices of classes: one reading of them, wherever they come in.

    texts            always names of classes
    whole numbers    in the API and over HTTP indices of classes; refused where a class's name is a whole number other than its index,
                     because then 3 may be the class "3" or the class at index 3
    files            always names: a folder, a field of a CSV file, str(n) of a whole number in an .npz; that number is refused only
                     where it could as well be the index of another class

With classes "0" … "9", each at its own index, both readings of a whole number are the same, and nothing is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError, UsageError
from isoform.runtime.formats.signature import check_labels
from isoform.runtime.samples.names import Names, as_known, hint

__all__ = ["check_numbers", "label_indices", "label_names", "new_classes"]

REMEDY = "give the names of the classes, as texts"
_WHOLE = re.compile(r"\s*([+-]?\d+)(\.0*)?\s*")


def label_names(labels: object) -> list[str] | None:
    """The labels, if all are texts; None if any is something else, or they are no list."""
    array = np.asarray(labels, dtype=object)
    return list(map(str, array)) if array.ndim == 1 and all(isinstance(label, str) for label in array) else None


def label_indices(labels: object, names: Sequence[str], *, samples: int) -> Array:
    """Labels as indices of classes.

    Args:
        labels: One per sample: a name, or where that is not ambiguous its index in ``names``.
        names: The classes.
        samples: How many there must be.

    Returns:
        Shape (samples,), int64.

    Raises:
        InputError: If they are not one per sample, a label is none of the classes or could mean two of them, or all are of one class.
    """
    array = np.asarray(labels, dtype=object)
    if array.shape != (samples,):
        raise InputError(
            f"labels have shape {array.shape} for {samples} samples, but one label per sample was expected"
        )
    texts = label_names(array)
    found = _whole_numbers(array, names) if texts is None else _found(texts, names)
    if len(set(found)) < 2:
        what = f"all {samples} samples are of class {names[found[0]]!r}" if samples else "there are no samples"
        raise InputError(
            f"{what}, but at least two classes were expected: a network cannot learn to tell one class from nothing"
        )
    return np.array(found, dtype=np.int64)


def new_classes(classes: object) -> tuple[str, ...]:
    """The names of the classes of a new logits layer, as they were given.

    Raises:
        UsageError: If they are no list of names.
        InputError: If a name is no text of 1 to 256 characters, or two are the same but for spaces, accents or invisible marks.
    """
    names_in_order = isinstance(classes, Sequence) or (isinstance(classes, np.ndarray) and classes.ndim == 1)
    if not names_in_order or isinstance(classes, str | bytes):
        raise UsageError(f"classes is {classes!r:.80}, but a list of names was expected, such as ['walk', 'run']")
    found = check_labels(list(cast("Sequence[object]", classes)), error=InputError, what="the new logits layer")
    names = Names()
    for place, name in enumerate(found):
        names.add(name, f"place {place} of classes")
    return found


def check_numbers(labels: Sequence[str], names: Sequence[str], *, where: str) -> None:
    """Refuse whole numbers of a file that are names of classes, but could as well be the indices of others.

    Args:
        labels: The whole numbers, as texts.
        names: The classes.
        where: The file, for the message.

    Raises:
        InputError: With both readings, and the remedy.
    """
    if set(labels) <= set(names) and all(0 <= int(label) < len(names) for label in labels):
        for label in labels:
            if names[int(label)] != label:
                raise InputError(f"{where}: labels are whole numbers, and {_readings(int(label), names)}; {REMEDY}")


def _found(texts: Sequence[str], names: Sequence[str]) -> list[int]:
    """Places of names among the classes."""
    known = {name: index for index, name in enumerate(names)}
    texts = as_known(texts, names)
    unknown = sorted(set(texts) - set(known))
    if unknown:
        shown, near = unknown[0][:40], hint(unknown[0], names)
        raise InputError(
            f"label {shown!r} is not one of the classes {', '.join(names)}; give classes=[...] (--new-labels) for a logits layer of your own labels{near}"
        )
    return [known[text] for text in texts]


def _whole_numbers(array: Array, names: Sequence[str]) -> list[int]:
    """Whole numbers that can be nothing but indices."""
    if {type(label) for label in array} > {str}:
        raise InputError("labels are texts and other things mixed, but names or whole numbers were expected")
    for row, label in enumerate(array):
        if isinstance(label, bool | np.bool_) or not isinstance(label, int | np.integer):
            kind = np.asarray(label).dtype
            raise InputError(
                f"labels are {kind}, but names or whole numbers were expected; sample {row} has {label!r:.40}"
            )
    found = [int(label) for label in array]
    for index, name in enumerate(names):
        whole = _WHOLE.fullmatch(name)
        if whole and int(whole[1]) != index:
            both = (n for n in found if 0 <= n < len(names) and str(n) in names and names[n] != str(n))
            number = next(both, None)
            readings = f"class {name!r} has index {index}" if number is None else _readings(number, names)
            raise InputError(f"labels are whole numbers, and {readings}; {REMEDY}")
    for row, number in enumerate(found):
        if not 0 <= number < len(names):
            raise InputError(
                f"label {number} of sample {row} is out of range; there are {len(names)} classes, 0 to {len(names) - 1}"
            )
    return found


def _readings(number: int, names: Sequence[str]) -> str:
    return f"{number} may be the class {str(number)!r} or the class at index {number}, {names[number]!r}"
