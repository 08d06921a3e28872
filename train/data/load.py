"""Read a task's data: read, split, limit, resize and transform, always the same way for the same recipe.

digits   embedded (``formats/digits.py``)
idx      MNIST, Fashion-MNIST, KMNIST, EMNIST (``formats/idx.py``)
usps     USPS in its three published forms (``formats/usps.py``)
files    images, recordings, sounds or arrays, by the rules of ``isoform personalize`` (``formats/files.py``)
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import DataError, InputError
from isoform.runtime.formats.signature import check_labels
from isoform.runtime.inputs import Reading
from isoform.runtime.samples.account import Account, plural
from isoform.runtime.samples.names import Names
from isoform.runtime.samples.pictures.images import resize
from isoform.train.data.domains import transform
from isoform.train.data.pictures import Images, Pictures, Progress
from isoform.train.data.recipe import DataRecipe, TaskRecipe
from isoform.train.data.samples import Dataset, Split
from isoform.train.data.splits import hold_out, rows_of

__all__ = ["IN_MEMORY", "load_task", "load_tasks", "reading_of"]


IN_MEMORY = 256 << 20
"""Bytes up to which the decoded images of a task are kept in memory; more are decoded again for every batch."""


def load_tasks(
    tasks: Mapping[str, TaskRecipe], recipe: DataRecipe, *, root: Path | None, progress: Progress | None = None
) -> dict[str, Dataset]:
    """Read the data of all tasks, recordings with their columns in the order of the first; arguments and errors as for ``load_task``."""
    found: dict[str, Dataset] = {}
    for name, task in tasks.items():
        found[name] = load_task(task, recipe, root=root, reading=reading_of(recipe, found), progress=progress)
    return found


def reading_of(recipe: DataRecipe, datasets: Mapping[str, Dataset]) -> Reading:
    """Return how samples are read: as the recipe says, and columns in the order in which some data sets have them."""
    columns = next((some.columns for some in datasets.values() if some.columns is not None), None)
    return recipe.reading if columns is None else dataclasses.replace(recipe.reading, columns=columns)


def load_task(
    task: TaskRecipe,
    recipe: DataRecipe,
    *,
    root: Path | None,
    reading: Reading | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read one task's data and apply the task's domain.

    Args:
        task: The data set and domain.
        recipe: Shape, split and seeds.
        root: The ``--data`` folder; only ``digits`` needs none.
        reading: How the other tasks' samples were read.
        progress: Told how many images of a half of the data were read.

    Returns:
        A data set with both halves, images of ``recipe.input_shape``.

    Raises:
        DataError: If files are missing, damaged or of another format, or a class has too few samples to split.
    """
    account = Account()
    whole = _read(task, root, recipe.input_shape, account, reading or recipe.reading)
    if not account.taken and isinstance(whole.train.images, np.ndarray):
        halves = [half for half in (whole.train, whole.test) if half is not None]
        account.take("image", sum(len(half.labels) for half in halves))
        account.classes.update(whole.classes)
    if 0 in whole.train.labels.shape:
        raise DataError(f"the data set of format {task.data!r} in {root} has no samples")
    _check_classes(whole.classes, what=f"the data set of format {task.data!r}")
    if whole.test is None:
        rest, held = hold_out(whole.train, whole.classes, recipe.test_fraction, recipe, what="testing")
        whole = dataclasses.replace(whole, train=rest, test=held)
    # After the split, so that a limit leaves the test samples as they are.
    if task.limit:
        whole = dataclasses.replace(whole, train=_limited(whole.train, task.limit, recipe.split_seed))
    untaught = sorted(set(range(len(whole.classes))) - set(whole.train.labels.tolist()))
    if untaught:
        raise DataError(
            f"class {whole.classes[untaught[0]]!r} of the data set of format {task.data!r} has no sample to train on; give it some, or raise the task's limit"
        )
    validation = None
    if recipe.validation_fraction:
        rest, validation = hold_out(whole.train, whole.classes, recipe.validation_fraction, recipe, what="validation")
        whole = dataclasses.replace(whole, train=rest)

    def finished(half: Split) -> Split:
        if not isinstance(half.images, Pictures):
            images = transform(_resized(half.images, recipe.input_shape), domain=task.domain)
            return dataclasses.replace(half, images=images)
        return dataclasses.replace(half, images=_kept(half.images.seen_in(task.domain), account, progress, small=small))

    assert whole.test is not None
    count = sum(len(half.labels) for half in (whole.train, whole.test, validation) if half is not None)
    small = count * math.prod(recipe.input_shape) * 4 <= IN_MEMORY
    return dataclasses.replace(
        whole, train=finished(whole.train), test=finished(whole.test), account=account,
        validation=None if validation is None else finished(validation),
    )  # fmt: skip


def _kept(images: Pictures, account: Account, progress: Progress | None, *, small: bool) -> Images:
    """Return images in memory if they are small, else on disk, after one look at each."""
    try:
        if small:
            return images.read(account=account, progress=progress)
        images.summarise(account=account, progress=progress)
    except InputError as problem:
        raise DataError(str(problem)) from None
    return images


def _read(
    task: TaskRecipe, root: Path | None, shape: tuple[int, int, int], account: Account, reading: Reading
) -> Dataset:
    if task.data == "digits":
        from isoform.train.data.formats.digits import digits

        images, labels = digits()
        return Dataset(train=Split(images=images, labels=labels), test=None, classes=tuple("0123456789"))
    if root is None:
        raise DataError(f"the recipe reads data of format {task.data!r}; say where its files are with --data DIR")
    if "\0" in task.path:
        raise DataError(f"the path {task.path!r} of a task holds a byte of zero, which no file name can contain")
    folder = _inside(root, task.path)
    if task.data in ("files", "folder"):
        from isoform.train.data.formats.files import read_files

        return read_files(folder, shape=shape, account=account, reading=reading)
    if not os.path.isdir(folder):
        raise DataError(
            f"{folder} is not a folder; --data and the task's path must name the folder of the {task.data} files"
        )
    if task.data == "idx":
        from isoform.train.data.formats.idx import read_idx_folder

        return read_idx_folder(folder, account=account)
    from isoform.train.data.formats.usps import read_usps_folder

    return read_usps_folder(folder, account=account)


def _inside(root: Path, path: str) -> Path:
    """Return the folder that a task's path names in ``root``. Raises ``DataError`` if the path leads out."""
    # By the text alone: a recipe from a stranger must not name other folders, but a link in --data is the user's own. The text is also
    # what is opened, because "link/.." would be the parent of the link's target.
    top = os.path.abspath(root)
    try:
        relative = os.path.relpath(os.path.join(top, path), top)
    except ValueError:  # on another drive
        relative = os.pardir
    if relative.split(os.sep)[0] == os.pardir:
        raise DataError(f"the path {path!r} of a task leads out of {root}; it must name a folder inside")
    return root / relative


def _check_classes(classes: Sequence[str], *, what: str) -> None:
    """Raise ``DataError`` unless there are at least two names, all different by the rules of ``samples/names.py``."""
    check_labels(classes, error=DataError, what=what)
    if len(classes) < 2:
        raise DataError(f"{what} has {plural(len(classes), 'class')}, but at least two were expected")
    names = Names()
    try:
        for place, name in enumerate(classes):
            names.add(name, f"class {place} of {what}")
    except InputError as problem:
        raise DataError(str(problem)) from None


def _limited(half: Split, limit: int, seed: int) -> Split:
    """Select at most ``limit`` samples, as evenly over the classes as they allow, in the original order."""
    rng = np.random.default_rng([seed, 1])  # the 1 keeps these draws apart from those of the split
    order = rng.permutation(len(half.labels))
    rank = np.zeros(len(order), dtype=np.int64)
    seen: dict[int, int] = {}
    for index in order:
        label = int(half.labels[index])
        rank[index] = seen[label] = seen.get(label, -1) + 1
    # By rank within the class: first one sample of every class, then a second one of every class, and so on.
    kept = np.zeros(len(order), dtype=bool)
    kept[order[np.argsort(rank[order], kind="stable")][:limit]] = True
    return rows_of(half, kept)


def _resized(images: Array, shape: tuple[int, int, int]) -> Array:
    """Convert images to ``shape``: bilinear resizing, grey by luma (Rec. 601), colour by repetition."""
    channels, height, width = shape
    found = images.shape[1]
    if found != channels:
        if (found, channels) == (3, 1):
            images = np.einsum("c,nchw->nhw", np.array([0.299, 0.587, 0.114], dtype=np.float32), images)[:, None]
        elif (found, channels) == (1, 3):
            images = np.repeat(images, 3, axis=1)
        else:
            raise DataError(f"the images have {found} channels, but data.input_shape asks for {channels}")
    if images.shape[2:] == (height, width):
        return images
    result = np.empty((len(images), *shape), dtype=np.float32)
    for target, image in zip(result, images, strict=True):
        target[:] = resize(image, height, width)
    return result
