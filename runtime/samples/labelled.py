"""Labelled samples from a user's files: images by class, sensor recordings, sounds, or arrays.

    folder/<label>/**/*.png       one image per sample
    folder/<label>/**/*.csv       recordings: a header, then one row per time step, one column per channel; .tsv likewise, here and below
    folder/<label>/**/*.wav       sounds, of which spectrograms are made if the network takes them; .flac, .ogg, .mp3 likewise
    samples.csv                   columns "file" and "label": images or sounds, paths relative to the file
                                  columns "label" and one per channel: one row per time step, a run of equal labels is a recording
    samples.npz                   arrays "x", shape (n, …) of the network's input, and "labels", strings or integers
    folder/x.npy, labels.npy      the same, mapped into memory

A label is always a class name, never an index; an integer n is the name str(n).

Samples that are alike beside their label, because they are of one recording, day or person, are a group:

    recordings                    each is one, unless a column "group" names them; the same name is the same group, in all files
    folder/<label>/<group>/*.png  the subfolder, if every image or sound is in one; the same name in two classes is the same group
    sounds                        each file, if one of them has several windows and they name no groups
    samples.csv, samples.npz      a column "group"; an array "groups", n strings or integers

Tables may be .tsv or .parquet as well.

A recording or sound is cut into windows of the network's width (``recordings``, ``sounds``). Other files are skipped
(``listing.py``) and counted (``account.py``).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.arrays import is_arrays, read_arrays
from isoform.runtime.samples.collected import Piece, collected
from isoform.runtime.samples.grid import grid_of
from isoform.runtime.samples.listing import Listing
from isoform.runtime.samples.names import Names
from isoform.runtime.samples.parquet import opened_table
from isoform.runtime.samples.reading import Found, Reader, check_one_kind
from isoform.runtime.samples.recordings.recordings import column_of
from isoform.runtime.samples.tables import is_table

__all__ = ["AS_IT_IS", "Labelled", "list_images", "read_labelled", "read_labelled_arrays", "samples_of_array"]


AS_IT_IS = Reading()
"""Columns in the order of the first file."""


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Samples with their class names."""

    x: Array
    """Shape (n, …) of the network's input; float32, or int64 for tokens."""
    labels: tuple[str, ...]
    """n class names."""
    numbers: bool = False
    """Whether the file's labels are integers, which could also be indices; see ``learn/labels.py``."""
    account: Account = dataclasses.field(default_factory=Account, compare=False)
    """What was read and what was skipped."""
    groups: tuple[str, ...] | None = None
    """n names of groups; None if they are not known."""
    columns: tuple[str, ...] | None = None
    """Names of the channels of recordings; None if none were read."""

    @property
    def unit(self) -> str:
        """What a group is, in the singular: ``recording`` for recordings that name no group, else ``group``."""
        cut = self.account.taken["recording"] or self.account.taken["sound"]
        return "recording" if cut and not self.account.groups else "group"


def read_labelled(
    path: Path, *, takes: Input, skip_short: bool = False, reading: Reading = AS_IT_IS, limited: bool = True
) -> Labelled:
    """Read labelled samples.

    Args:
        path: A folder, a .csv, .tsv, .parquet, .npz or .npy file, as described in the module's docstring.
        takes: The network's input.
        skip_short: Skip a class whose recordings are all shorter than a window, instead of raising an error.
        reading: How samples were read for training, ``Bundle.reading``.
        limited: Refuse more samples than ``ISOFORM_MAX_DATA_BYTES``, which protects a device.

    Raises:
        InputError: If there are no samples, or a file is malformed; the message has the file, and the line if there is one.
    """
    account = Account()
    if is_arrays(path):
        arrays = read_arrays(path, account, limited=limited)
        return read_labelled_arrays(path, arrays, takes=takes, account=account)
    # os.path, because Path.is_dir raises OSError on names that are too long or folders that may not be entered
    if not (os.path.isdir(path) or is_table(path)):
        raise InputError(
            f"{path} {_problem(path)}: a folder with a folder per label, a .csv, .tsv, .parquet, .npz or .npy file was expected"
        )
    shape = grid_of(takes, path)
    reader = Reader(shape, account, reading=reading, where=path, skip_short=skip_short)
    x, labels, groups = collected(
        _folder(path, account, reader) if os.path.isdir(path) else _table(path, reader), shape, limited=limited
    )
    if not labels:
        raise InputError(f"{path} has no samples; a window needs {shape[2]} rows of one label")
    account.classes.update(labels)
    if not (account.taken["recording"] or account.taken["sound"]):
        account.groups.update(groups or ())
    elif not account.groups and groups and account.taken["sound"] == len(groups):
        groups = None  # every file is one sample, so that none is like another
    return Labelled(x.reshape(len(x), *takes.largest), labels, account=account, groups=groups, columns=reader.columns)


def read_labelled_arrays(path: Path, arrays: dict[str, Array], *, takes: Input, account: Account) -> Labelled:
    """Check samples and labels of an .npz file, read by ``read_arrays``. Raises ``InputError`` if they do not match."""
    if not {"x", "labels"} <= set(arrays):
        raise InputError(f"{path} has no arrays x and labels; write it with numpy.savez(path, x=..., labels=...)")
    x, labels = arrays["x"], arrays["labels"]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU" or x.ndim < 1 or len(x) != len(labels):
        raise InputError(
            f"{path} holds labels of shape {labels.shape}, {labels.dtype}, for samples of shape {x.shape}, but one string or integer per sample was expected"
        )
    names = Names(written=True)
    named = tuple(names.add(str(label), f"sample {i} of {path}") for i, label in enumerate(labels.tolist()))
    account.classes.update(named)
    groups = None if "groups" not in arrays else _groups_of_array(path, arrays["groups"], samples=len(x))
    account.groups.update(groups or ())
    samples = samples_of_array(path, x, takes=takes, account=account)
    return Labelled(samples, named, labels.dtype.kind in "iu", account, groups)


def samples_of_array(path: Path, x: Array, *, takes: Input, account: Account) -> Array:
    """Check an array of samples with ``Input.checked``. Raises ``InputError`` if the shape is wrong or a number is not finite."""
    samples = takes.checked(x, where=f" of {path}")
    if not len(samples):
        raise InputError(f"{path} has no samples")
    account.take("sample", len(samples), files=1)
    # read as they are: nobody but the user knows the range, but a maximum of 255 is a common mistake
    picture = takes.what == "image" and samples.shape[1] in (1, 3) and samples.shape[2] > 1
    if picture and samples.max(initial=0) > 2:
        account.note(f"x has values up to {samples.max():g}, but images read from files have 0 to 1")
    return samples


def _groups_of_array(path: Path, groups: Array, *, samples: int) -> tuple[str, ...]:
    if groups.shape != (samples,) or groups.dtype.kind not in "iuU":
        raise InputError(
            f"{path} holds groups of shape {groups.shape}, {groups.dtype}, for {samples} samples, but one string or integer per sample was expected"
        )
    names = Names(written=True, what="group")
    return tuple(names.add(str(group), f"sample {i} of {path}") for i, group in enumerate(groups.tolist()))


def _problem(path: Path) -> str:
    """Return why a path cannot be read as data."""
    try:
        path.stat()
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as problem:
        return f"cannot be read ({getattr(problem, 'strerror', None) or problem})"
    return "is not supported"


def list_images(path: Path, *, takes: Input, account: Account, reading: Reading = AS_IT_IS) -> list[Found] | None:
    """List the images of ``read_labelled``'s forms, without opening them; arguments and errors as there.

    Returns:
        The images in order; None if the samples are not all images, and nothing was counted in ``account``.
    """
    if reading.sound is not None or is_arrays(path) or not (os.path.isdir(path) or is_table(path)):
        return None
    shape = grid_of(takes, path)
    reader = Reader(shape, account, reading=reading, where=path)
    if is_table(path):
        table = opened_table(path)
        named = column_of(table, "file") is not None and column_of(table, "label") is not None
        return [*reader.listed_in(table)] if named else None
    if shape[1] == 1:  # the files may be recordings
        aside = Account()
        members = _members(path, aside, Reader(shape, aside, reading=reading, where=path))
        if any(is_table(file) for _, files in members.values() for file in files):
            return None
    members = _members(path, account, reader)
    found = [one for label, (place, files) in members.items() for one in reader.listed(files, label, folder=place)]
    account.files += len(found)
    return found


def _folder(folder: Path, account: Account, reader: Reader) -> Iterator[Piece]:
    for label, (place, files) in _members(folder, account, reader).items():
        yield from reader.read(files, label, folder=place)
    reader.close()


def _members(folder: Path, account: Account, reader: Reader) -> dict[str, tuple[Path, list[Path]]]:
    """List all classes before the first file is read, so that an empty one is reported at once; returns label → its folder and files."""
    listing = Listing(folder, account)
    classes = listing.classes(folder)
    if not classes:
        raise InputError(
            f"{folder} has no subfolders, but one per label, with images, sounds or .csv or .tsv files in it, was expected"
        )
    members = {}
    for label, place in classes.items():
        members[label] = place, reader.sort_out(listing.below(place))
        if not members[label][1]:
            raise InputError(f"{place} has no {reader.what}; add some, or remove the folder{account.advice()}")
    check_one_kind([path for _, files in members.values() for path in files], where=folder)
    reader.grouped = all(path.parent != place for place, files in members.values() for path in files)
    return members


def _table(path: Path, reader: Reader) -> Iterator[Piece]:
    table = opened_table(path)
    if column_of(table, "label") is None:
        raise InputError(f"{path} has columns {', '.join(table.header)[:200]}, but one named label was expected")
    if column_of(table, "file") is not None:
        yield from reader.named(table)
        return
    yield from reader.recordings(table)
    reader.close()
