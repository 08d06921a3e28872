"""Selecting the images and recordings that a network can read from a folder's files, and reading them in order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from isoform.runtime.errors import InputError
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.collected import Piece
from isoform.runtime.samples.names import Names, normal
from isoform.runtime.samples.pictures.formats import is_image, remedy
from isoform.runtime.samples.pictures.images import load_image
from isoform.runtime.samples.recordings import Recordings, column_of
from isoform.runtime.samples.tables import Table, is_table

__all__ = ["check_one_kind", "read_files", "read_table_images", "sort_out"]


def sort_out(files: list[Path], shape: tuple[int, int, int], account: Account, *, tables: bool = True) -> list[Path]:
    """Return the files that the network can read samples from; the others are counted, with advice on how to make them readable.

    Args:
        files: All files that are not hidden.
        shape: Channels (1 or 3: images are readable), height (1: recordings are readable), width of a sample.
        account: Counts what is skipped.
        tables: Whether the caller reads recordings.
    """
    images, tables = shape[0] in (1, 3), tables and shape[1] == 1
    what = "neither image nor recording" if images and tables else "no image" if images else "no recording"
    kept = []
    for path in files:
        ending = path.suffix.lower()
        if (images and is_image(ending)) or (tables and is_table(path)):
            kept.append(path)
            continue
        account.leave(f"file that is {what}", ending=ending)
        if images and (advice := remedy(ending)):
            account.remedies[ending] = advice
    return kept


def check_one_kind(files: list[Path], *, where: Path) -> None:
    """Raise ``InputError`` if there are both images and recordings, and the network could read samples from either."""
    pictures = [path for path in files if not is_table(path)]
    if pictures and len(pictures) < len(files):
        table = next(path for path in files if is_table(path))
        raise InputError(
            f"{where} holds images and recordings, {pictures[0]} and {table}, and this network can read both; remove the ones that are not samples"
        )


def read_files(
    files: list[Path], *, shape: tuple[int, int, int], account: Account, recordings: Recordings, label: str | None,
    folder: Path,
) -> Iterator[Piece]:  # fmt: skip
    """Read the samples of image files and recordings.

    Args:
        files: The result of ``sort_out``.
        shape: Channels, height, width of a sample.
        account: Counts what is read.
        recordings: Reads the tables.
        label: Label of all files; None if only a recording's column "label", if any, gives it.
        folder: Where the files are; an image's group is the name of its subfolder there.

    Yields:
        First the images one by one, then each recording's windows.
    """
    for path in files:
        if not is_table(path):
            inside = path.relative_to(folder).parts[:-1]
            group = normal(inside[0]) if inside else ""
            yield Piece(load_image(path, shape=shape, account=account)[None], label or "", group, path)
            account.files += 1
    for path in files:
        if is_table(path):
            yield from recordings.read(Table(path), label)


def read_table_images(table: Table, *, shape: tuple[int, int, int], account: Account) -> Iterator[Piece]:
    """Read the images in a table's column ``file``, shape (1, channels, height, width), with what its columns ``label`` and ``group`` say.

    Raises:
        InputError: If a file cannot be read as an image, or two rows give a file different labels or groups; the message has the lines.
    """
    file = column_of(table, "file")
    assert file is not None
    said = {"label": column_of(table, "label"), "group": column_of(table, "group")}
    names = {what: Names(written=True, what=what) for what in said}
    met = dict[str, tuple[int, dict[str, str]]]()
    for line, row in table.rows():
        at = table.line_of(line, row, said["label"] or 0)
        found = {
            what: names[what].add(row[place], f"{table.path}, line {table.line_of(line, row, place)},")
            for what, place in said.items()
            if place is not None
        }
        path = table.path.parent / row[file].strip()
        try:
            x = load_image(path, shape=shape, account=account)
        except InputError as problem:
            raise InputError(f"{table.path}, line {at}: {problem}") from None
        # by the real path: another spelling of a path, or a link, must not give an image two labels
        first, others = met.setdefault(os.path.realpath(path), (at, found))
        for what, name in found.items():
            if others[what] != name:
                both = f"the {what} {others[what]!r} in line {first} and {name!r} in line {at}"
                raise InputError(
                    f"{table.path} gives {path} {both}; a sample has one {what}, remove one of the two lines"
                )
        if first != at:
            account.note("a row repeats the image of another row")
        yield Piece(x[None], found.get("label", ""), found.get("group", ""), path)
    account.leave("other column", sum(place not in (file, *said.values()) for place in range(len(table.header))))
    account.files += len(met)
    account.leave("commented line", table.comments)
