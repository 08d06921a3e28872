"""Conversion of labels to class indices, with the same rules for the API, HTTP and files; and of groups to numbers.

    strings          always class names
    integers         in the API and over HTTP class indices; rejected if a class's name is a whole number other than its index,
                     because 3 could then be the class "3" or the class at index 3
    files            always class names: a folder, a field of a CSV file, str(n) of an integer in an .npz; such an integer is
                     rejected only if it could also be the index of another class

With classes "0" … "9", each at its own index, both readings of an integer are the same, and nothing is rejected.
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

__all__ = ["check_numbers", "group_indices", "label_indices", "label_names", "new_classes"]

REMEDY = "give class names as strings"
_WHOLE = re.compile(r"\s*([+-]?\d+)(\.0*)?\s*")


def label_names(labels: object) -> list[str] | None:
    """Return the labels as a list if all are strings; None if any is not, or they are not a flat list."""
    # object: numpy would turn [1, "a"] into two strings
    array = np.asarray(labels, dtype=object)
    return list(map(str, array)) if array.ndim == 1 and all(isinstance(label, str) for label in array) else None


def label_indices(labels: object, names: Sequence[str], *, samples: int, several: bool = True) -> Array:
    """Convert labels to class indices.

    Args:
        labels: One per sample: a class name, or its index in ``names`` if that is not ambiguous.
        names: The class names.
        samples: Expected number of labels.
        several: Whether there must be samples of two classes, as for learning.

    Returns:
        Shape (samples,), int64.

    Raises:
        InputError: If they are not one per sample, a label is not a class or is ambiguous, or all are of one class although ``several``.
    """
    array = np.asarray(labels, dtype=object)
    if array.shape != (samples,):
        raise InputError(
            f"labels have shape {array.shape} for {samples} samples, but one label per sample was expected"
        )
    texts = label_names(array)
    found = _whole_numbers(array, names) if texts is None else _found(texts, names)
    if several and len(set(found)) < 2:
        what = f"all {samples} samples are of class {names[found[0]]!r}" if samples else "there are no samples"
        raise InputError(
            f"{what}, but at least two classes were expected: a network cannot learn to distinguish a single class"
        )
    return np.array(found, dtype=np.int64)


def group_indices(groups: object, *, samples: int) -> Array:
    """Convert groups to numbers from 0, in the order in which they are met.

    Args:
        groups: One per sample: all strings, or all integers.
        samples: Expected number of groups.

    Returns:
        Shape (samples,), int64.

    Raises:
        InputError: If they are not one per sample, or not all strings or all integers.
    """
    # object: numpy would turn [1, "a"] into two strings
    array = np.asarray(groups, dtype=object)
    if array.shape != (samples,):
        raise InputError(
            f"groups have shape {array.shape} for {samples} samples, but one group per sample was expected"
        )
    numbers: dict[str | int, int] = {}
    first = array[0] if samples else ""
    for row, group in enumerate(array):
        if not isinstance(group, str | int | np.integer) or isinstance(group, bool):
            raise InputError(f"the group of sample {row} is {group!r:.40}, but a string or an integer was expected")
        if isinstance(group, str) != isinstance(first, str):
            raise InputError(
                f"the group of sample {row} is {group!r:.40} and that of sample 0 {first!r:.40}, but all strings or all integers were expected"
            )
        numbers.setdefault(group if isinstance(group, str) else int(group), len(numbers))
    return np.array([numbers[group] for group in array], dtype=np.int64)


def new_classes(classes: object) -> tuple[str, ...]:
    """Check the class names of a new logits layer, and return them unchanged.

    Raises:
        UsageError: If they are not a list of names.
        InputError: If a name is not a string of 1 to 256 characters, or two differ only in spaces, accents or invisible characters.
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
    """Reject integer labels of a file that are class names but could also be the indices of other classes.

    Args:
        labels: The integers, as strings.
        names: The class names.
        where: The file, for the message.

    Raises:
        InputError: If a label is ambiguous; the message has both readings, and the remedy.
    """
    if set(labels) <= set(names) and all(0 <= int(label) < len(names) for label in labels):
        for label in labels:
            if names[int(label)] != label:
                raise InputError(f"{where}: labels are whole numbers, and {_readings(int(label), names)}; {REMEDY}")


def _found(texts: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the indices of class names."""
    known = {name: index for index, name in enumerate(names)}
    texts = as_known(texts, names)
    unknown = sorted(set(texts) - set(known))
    if unknown:
        shown, near = unknown[0][:40], hint(unknown[0], names)
        raise InputError(
            f"label {shown!r} is not one of the classes {', '.join(names)}; give classes=[...] (--new-labels) for a logits layer with new labels{near}"
        )
    return [known[text] for text in texts]


def _whole_numbers(array: Array, names: Sequence[str]) -> list[int]:
    """Return integer labels as class indices, after checking that they cannot be names."""
    # a strict superset: lists of strings only do not come here
    if {type(label) for label in array} > {str}:
        raise InputError("labels are strings mixed with other types, but class names or whole numbers were expected")
    for row, label in enumerate(array):  # bool is a subclass of int, but True as a class index is surely a mistake
        if isinstance(label, bool | np.bool_) or not isinstance(label, int | np.integer):
            kind = np.asarray(label).dtype
            raise InputError(
                f"labels are {kind}, but class names or whole numbers were expected; sample {row} has {label!r:.40}"
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
