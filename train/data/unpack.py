"""Images and sounds in Hugging Face's data sets on disk, written to files in folders that every command reads.

    a folder of ``save_to_disk``            state.json and .arrow files; dataset_dict.json where there are several splits
    a folder of Parquet files               as on the hub: the split is the name up to the first ``-``, or the folder of files that are numbered
    one .parquet or .arrow file

The column of images or sounds has structs of ``bytes`` and ``path``; names of classes are in the schema's metadata (``huggingface``). Files are
written as they are, none is decoded, to ``SPLIT/LABEL/`` or, with a column of groups, ``SPLIT/LABEL/GROUP/``. A single split is written without
its name; of two, that which is not called train is ``test``. Source: the layout of the package ``datasets``, versions 2 to 4.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from isoform.runtime.errors import DataError, first_line
from isoform.runtime.extras import needs
from isoform.runtime.formats import files
from isoform.runtime.samples.pictures.formats import is_image
from isoform.runtime.samples.sounds.files import is_sound

__all__ = ["unpack"]

BATCH = 64
"""Rows in memory."""
BEGINNINGS = {
    b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif", b"fLaC": ".flac",
    b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3", b"FORM": ".aiff",
}  # fmt: skip
"""First bytes of files → extension, where a row has no name; RIFF, of WAV and WebP, is told apart by its bytes 8 to 11."""
RIFF = {b"WAVE": ".wav", b"WEBP": ".webp"}
JSON_LIMIT = 16 << 20


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Which columns of a table are what."""

    media: str
    label: str
    group: str | None
    names: Sequence[str] | None
    """Names of classes, if labels are numbers."""


def unpack(
    source: Path, output: Path, *, label: str | None = None, group: str | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, int]:  # fmt: skip
    """Write a data set's images or sounds to files.

    Args:
        source: As the module's docstring says.
        output: The folder to make; after a crash there is none.
        label: The column of labels; None for the only one with names of classes, or else that named ``label``.
        group: A column by which samples are to be held out together.
        progress: Told how many rows of a split were written, of how many.

    Returns:
        Split → number of files.

    Raises:
        DataError: If it is no such data set, a file is damaged, or a column is missing.
        MissingExtraError: If pyarrow is not installed.
    """
    with needs(f"reading {source}", extra="parquet"):
        import pyarrow.ipc
        import pyarrow.parquet  # noqa: F401 - the classes below import them again
    splits = _splits(source)
    folders = _folders([*splits])
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output} exists; choose another folder, so that none of its files are lost")
    counts: dict[str, int] = {}
    with files.replace_directory(output) as place:
        for split, found in splits.items():
            counts[split] = 0
            tables = [_Opened(path) for path in found]
            total = sum(table.rows for table in tables)
            for table in tables:
                columns = table.columns(label, group)
                for number, row in enumerate(table.read(columns)):
                    _write(place / folders[split], row, columns, counts[split], at=f"{table.path}, row {number},")
                    counts[split] += 1
                    if progress:
                        progress(counts[split], total)
    return counts


def _folders(splits: Sequence[str]) -> dict[str, str]:
    """Return split → its folder below the output."""
    if len(splits) == 1:
        return {splits[0]: ""}
    if len(splits) == 2 and "train" in splits:
        return {split: "train" if split == "train" else "test" for split in splits}
    return {split: split for split in splits}


def _splits(source: Path) -> dict[str, list[Path]]:
    """Return split → its files."""
    if source.exists() and not source.is_dir():
        return {"all": [source]}
    if (source / "dataset_dict.json").exists():
        splits = _json(source / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not splits or not all(_plain(name) for name in splits):
            raise DataError(f"{source / 'dataset_dict.json'} has no list of splits; save the data set again")
        return {split: _saved(source / split) for split in splits}
    if (source / "state.json").exists():
        return {"all": _saved(source)}
    found: dict[str, list[Path]] = {}
    places = set()
    for path in sorted(source.rglob("*.parquet")):
        numbered = path.stem.isdigit()  # as train/0000.parquet
        found.setdefault(path.parent.name if numbered else path.stem.partition("-")[0], []).append(path)
        places.add(path.parent.parent if numbered else path.parent)
    if len(places) > 1:
        one, other = sorted(places)[:2]
        raise DataError(f"{source} has several data sets, such as {one} and {other}; name the folder of one of them")
    if not found:
        raise DataError(
            f"{source} is no data set of Hugging Face's: a folder with dataset_dict.json, state.json or .parquet files, or such a file, was expected"
        )
    if bad := [split for split in found if not _plain(split)]:
        raise DataError(
            f"{found[bad[0]][0]} has a name that begins with no split; call it train-0.parquet, for example"
        )
    return found


def _saved(folder: Path) -> list[Path]:
    """Return the files of a split that ``save_to_disk`` wrote."""
    entries = _json(folder / "state.json").get("_data_files")
    names = [entry.get("filename") for entry in entries] if isinstance(entries, list) else []
    if not names or not all(_plain(name) for name in names):
        raise DataError(f"{folder / 'state.json'} names no data files; save the data set again")
    return [folder / name for name in names]


def _json(path: Path) -> dict[str, Any]:
    found = files.read_json(path, limit=JSON_LIMIT, error=DataError, what="file")
    if not isinstance(found, dict):
        raise DataError(f"{path} is not a JSON object")
    return found


def _plain(name: object) -> bool:
    """Whether a text can be the name of a file or folder that stays where it is written."""
    return isinstance(name, str) and bool(name.strip()) and not name.startswith(".") and not {"/", "\\", "\0"} & {*name}


class _Opened:
    """One file of a data set."""

    def __init__(self, path: Path) -> None:
        import pyarrow.ipc
        import pyarrow.parquet

        self.path = path
        files.open_file(path, limit=1 << 62, error=DataError, what="file").close()
        try:
            if path.suffix.lower() == ".parquet":
                self._parquet = pyarrow.parquet.ParquetFile(path)
                self.schema, self.rows = self._parquet.schema_arrow, self._parquet.metadata.num_rows
                return
            self._parquet = None
            with contextlib.closing(pyarrow.memory_map(str(path))) as mapped, pyarrow.ipc.open_stream(mapped) as stream:
                self.schema, self.rows = stream.schema, sum(len(batch) for batch in stream)
        except (pyarrow.ArrowException, OSError, ValueError) as problem:
            raise self._damaged(problem) from None

    def _damaged(self, problem: Exception) -> DataError:
        return DataError(f"{self.path} cannot be read: {first_line(problem)[:200]}")

    def columns(self, label: str | None, group: str | None) -> _Columns:
        """Find the columns. Raises ``DataError`` if one is missing."""
        import pyarrow.types as types

        names = [*self.schema.names]
        structs = [
            field.name for field in self.schema
            if types.is_struct(field.type) and _is_media({part.name: str(part.type) for part in field.type})
        ]  # fmt: skip
        if not structs:
            raise DataError(
                f"{self.path} has columns {', '.join(names)[:200]}, but one of images or sounds was expected; "
                "a table of numbers is read as it is, in Parquet or CSV"
            )
        features = self._features()
        classes = [
            name
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        ]
        chosen = label or (classes[0] if len(classes) == 1 else "label")
        for name in (chosen, group):
            if name is not None and name not in names:
                raise DataError(
                    f"{self.path} has no column {name!r}, but {', '.join(names)[:200]}; choose with --label and --group"
                )
        feature = features.get(chosen)
        known = feature.get("names") if isinstance(feature, dict) else None
        return _Columns(structs[0], chosen, group, known if isinstance(known, list) else None)

    def _features(self) -> dict[str, Any]:
        """Return what the schema says of the columns."""
        text = (self.schema.metadata or {}).get(b"huggingface", b"{}")
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            found = json.loads(text).get("info", {}).get("features", {})
            return found if isinstance(found, dict) else {}
        return {}

    def read(self, columns: _Columns) -> Iterator[dict[str, Any]]:
        """Yield rows, with the columns that are needed. Raises ``DataError`` if the file is damaged."""
        import pyarrow

        rows = self._rows(columns)
        while True:
            try:
                row = next(rows, None)
            except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as problem:
                raise self._damaged(problem) from None
            if row is None:
                return
            yield row

    def _rows(self, columns: _Columns) -> Iterator[dict[str, Any]]:
        import pyarrow.ipc

        wanted = [name for name in (columns.media, columns.label, columns.group) if name is not None]
        if self._parquet is not None:
            for batch in self._parquet.iter_batches(batch_size=BATCH, columns=wanted):
                yield from batch.to_pylist()
            return
        with (
            contextlib.closing(pyarrow.memory_map(str(self.path))) as mapped,
            pyarrow.ipc.open_stream(mapped) as stream,
        ):
            for batch in stream:
                some = batch.select(wanted)
                some.validate(full=True)
                for start in range(0, len(some), BATCH):
                    yield from some.slice(start, BATCH).to_pylist()


def _is_media(types: dict[str, str]) -> bool:
    """Whether a struct with such fields, name → type, is one of images or sounds."""
    return types.get("bytes") in ("binary", "large_binary") and types.get("path") in ("string", "large_string", "null")


def _write(folder: Path, row: dict[str, Any], columns: _Columns, number: int, *, at: str) -> None:
    """Write a row's file; ``at`` says where the row is."""
    media, label = row[columns.media], row[columns.label]
    if columns.names is not None and isinstance(label, int):
        if not 0 <= label < len(columns.names):
            raise DataError(
                f"{at} has the label {label}, but 0 to {len(columns.names) - 1} was expected; save the data set with its labels"
            )
        label = columns.names[label]
    parts = [label] if columns.group is None else [label, row[columns.group]]
    for part in parts:
        folder = folder / str(part)
        if part is None or not _plain(str(part)):
            raise DataError(f"{at} has {part!r} as a label or group, which cannot be the name of a folder; rename it")
    data = (media or {}).get("bytes")
    if not data:
        raise DataError(f"{at} has no bytes in column {columns.media!r}: embed the files when the data set is saved")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number:06d}{_ending(media.get('path') or '', data, at)}").write_bytes(data)


def _ending(name: str, data: bytes, at: str) -> str:
    """Return the extension of a file, by its name or else by its first bytes."""
    ending = Path(name).suffix.lower()
    if is_image(ending) or is_sound(ending):
        return ending
    found = (
        RIFF.get(data[8:12])
        if data.startswith(b"RIFF")
        else next((e for start, e in BEGINNINGS.items() if data.startswith(start)), None)
    )
    if found is None:
        raise DataError(f"{at} is neither an image nor a sound by its name {name[:60]!r} or its first bytes")
    return found
