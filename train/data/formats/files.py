"""Read labelled samples by the rules of ``isoform personalize`` (``runtime/samples/labelled.py``): images, recordings or arrays.

The path is a folder with a folder per class, a table, or an .npz file; or a folder with ``train`` and ``test`` that are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isoform.runtime.errors import DataError, InputError
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.labelled import Labelled, read_labelled
from isoform.train.data.samples import Dataset, Split

__all__ = ["read_files"]


def read_files(path: Path, *, shape: tuple[int, int, int], account: Account, reading: Reading) -> Dataset:
    """Read a data set.

    Args:
        path: As the module's docstring says.
        shape: Channels, height and width of a sample; windows of recordings have height 1, feature vectors one pixel.
        account: Counts what is read and left out.
        reading: How an earlier task's samples were read, for these to be read likewise.

    Raises:
        DataError: If a file is malformed, or ``train`` and ``test`` have different classes.
    """
    takes, parts = Input(what="image", shape=shape), [path / "train", path / "test"]
    try:
        # both or none: a class may be named "train"
        found = [
            read_labelled(part, takes=takes, reading=reading)
            for part in (parts if all(part.is_dir() for part in parts) else [path])
        ]
    except InputError as problem:
        raise DataError(str(problem)) from None
    classes = tuple(sorted({*found[0].labels}))
    for half in found[1:]:
        if only := {*half.labels} ^ {*classes}:
            raise DataError(
                f"{path} has classes in only one of train and test: {', '.join(sorted(only))}; both need the same classes"
            )
        if half.columns != found[0].columns:
            raise DataError(
                f"{path} has recordings with the columns {half.columns} in test, but {found[0].columns} in train; use the same names and order"
            )
    for half in found:
        account.add(half.account)
    halves = [_split(half, classes) for half in found]
    return Dataset(
        train=halves[0], test=halves[1] if len(halves) == 2 else None, classes=classes, columns=found[0].columns, account=account
    )  # fmt: skip


def _split(found: Labelled, classes: tuple[str, ...]) -> Split:
    index = {name: place for place, name in enumerate(classes)}
    labels = np.array([index[label] for label in found.labels], dtype=np.int64)
    groups = None if found.groups is None else np.array(found.groups)
    return Split(images=found.x, labels=labels, groups=groups, unit=found.unit)
