"""A million users' signatures: how large, how fast to look up, to append and to list; beside a folder of files and a plain table.

    python benchmarks/store.py [--users 1000000] [--postgresql] [--folder PATH] [--quick] [--json PATH]

The signatures are real files of 32 mixture numbers, all different, one revision each, in the server's own store. What is timed, by users
at random, one after the other, in one thread; medians and 99th percentiles:

    newest      which revision answers: what every prediction asks
    data        a signature file's bytes
    append      a new revision, acknowledged: it is on the disk
    page        a hundred users by name, with their newest revisions

Cold: opened anew, with the files' contents dropped from the system's memory; each user is asked for once. Names of files and their places
stay in memory, in the folder's favour. Beside it, in the same run, a folder with a file for every user (``open`` and ``read``; append:
write, fsync, rename, fsync) and, as the floor, one SQLite table of names and bytes. ``--postgresql`` adds a PostgreSQL server of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from bench.harness import machine, parser, print_table, write_json
from bench.multitude import TASK, Folder, Table, fill_store, name_of, signature_files

from isoform.runtime import Signature
from isoform.server.store.store import Store

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure, print, write."""
    arguments, started = _arguments(), time.perf_counter()
    effort = 1 if arguments.quick else 5
    figures: dict[str, object] = {**machine(), "quick": arguments.quick, "users": arguments.users}
    measures = {"store": of_store, "table": of_table, "folder": of_folder}
    if arguments.postgresql:
        measures["postgresql"] = of_postgresql
    with tempfile.TemporaryDirectory(prefix="isoform-store-", dir=arguments.folder) as name:
        for place, measure in measures.items():
            (Path(name) / place).mkdir()
            found = measure(Path(name) / place, arguments.users, effort)
            figures.update({f"{place}.{key}": value for key, value in found.items()})
            print(f"{time.perf_counter() - started:6.1f} s  {place}", file=sys.stderr)
        report(arguments, figures, list(measures))  # before a million files are deleted, which takes its time


def report(arguments: argparse.Namespace, figures: dict[str, object], places: list[str]) -> None:
    """Ratios to the rivals, the table, the file."""
    for key in ("data_warm_p50_us", "data_cold_p50_us", "append_p50_us", "bytes_per_signature"):
        for rival in ("folder", "table"):
            figures[f"store_over_{rival}.{key}"] = float(str(figures[f"store.{key}"])) / float(
                str(figures[f"{rival}.{key}"])
            )
    rows = list(dict.fromkeys(key.split(".", 1)[1] for key in figures if key.split(".")[0] in places))
    title = f"{arguments.users:,} users, {figures['machine']}, {figures['date']}"
    columns = [*places, *(f"store_over_{rival}" for rival in ("folder", "table"))]
    print_table(
        title,
        ["figure", *columns],
        [[row, *(_shown(figures.get(f"{place}.{row}")) for place in columns)] for row in rows],
    )
    write_json(arguments.json, figures)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--users", type=int, help="how many (default: 1000000; --quick: 100000)")
    arguments.add_argument("--postgresql", action="store_true", help="a PostgreSQL server too; needs its programs")
    arguments.add_argument("--folder", type=Path, help="on which disk (default: where temporary files are)")
    found = arguments.parse_args()
    found.users = found.users or (100_000 if found.quick else 1_000_000)
    return found


def _shown(value: object) -> str:
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) and value < 1e5 else f"{value:,.0f}"


def of_store(folder: Path, users: int, effort: int) -> dict[str, float]:
    """The server's store in SQLite."""
    file = folder / "signatures.db"
    with Store(file) as store:
        began = time.perf_counter()
        fill_store(store, users)
        filled = time.perf_counter() - began
    size = sum(path.stat().st_size for path in folder.glob("signatures.db*"))

    @contextlib.contextmanager
    def opened() -> Iterator[Store]:
        drop(folder)
        with Store(file) as store:
            yield store

    return {
        "fill_seconds": filled,
        "bytes": float(size),
        "bytes_per_signature": size / users,
        **_asked(opened, users, effort),
    }


def of_postgresql(_: Path, users: int, effort: int) -> dict[str, float]:
    """The server's store in PostgreSQL, on a server of its own, never cold: its memory is not ours to empty."""
    sys.path.append(str(ROOT / "tests" / "helpers"))  # where the tests' own server is started
    postgres = importlib.import_module("postgres")
    if postgres.POSTGRES is None:
        raise SystemExit("PostgreSQL is not installed; Debian's package is 'postgresql'")
    with postgres.postgres() as url:
        with Store(url) as store:
            began = time.perf_counter()
            fill_store(store, users)
            filled = time.perf_counter() - began
            with store.reading() as connection:
                size = connection.exec_driver_sql("SELECT pg_total_relation_size('isoform_revisions')").scalar_one()

        found = _asked(lambda: Store(url), users, effort)
    kept = {key: value for key, value in found.items() if "cold" not in key}
    return {"fill_seconds": filled, "bytes": float(size), "bytes_per_signature": size / users, **kept}


def _asked(opened: Callable[[], contextlib.AbstractContextManager[Store]], users: int, effort: int) -> dict[str, float]:
    """All times of a store."""
    found, rng = dict[str, float](), np.random.default_rng(0)
    some = [name_of(number) for number in rng.integers(0, users, 400 * effort)]
    with opened() as store:
        found |= times("newest_cold", lambda name: store.newest(TASK, name), some)
    with opened() as store:
        found |= times("data_cold", lambda name: store.data(TASK, name, 1), some)
    with opened() as store:
        for name in some:
            assert store.newest(TASK, name) is not None
            Signature.decode(store.data(TASK, name, 1) or b"")  # they are what they are said to be
        found |= times("newest_warm", lambda name: store.newest(TASK, name), 5 * some)
        found |= times("data_warm", lambda name: store.data(TASK, name, 1), 5 * some)
        fresh = iter(list(signature_files(len(some), start=1)))

        def append(name: str) -> None:
            digest, data = next(fresh)
            store.append(TASK, name, digest=digest, data=data, action="put", actor="me")

        found |= times("append", append, some)
        found |= times("page", lambda name: store.users(TASK, after=name, limit=100), some[: 40 * effort])
    return found


def of_table(folder: Path, users: int, effort: int) -> dict[str, float]:
    """One table of names and bytes."""
    began = time.perf_counter()
    table = Table(folder / "table.db")
    table.fill(users)
    filled = time.perf_counter() - began
    table.close()
    size = (folder / "table.db").stat().st_size

    def opened() -> Table:
        drop(folder)
        return Table(folder / "table.db")

    return {
        "fill_seconds": filled,
        "bytes": float(size),
        "bytes_per_signature": size / users,
        **_read(opened(), users, effort),
    }


def of_folder(folder: Path, users: int, effort: int) -> dict[str, float]:
    """A file for every user."""
    began = time.perf_counter()
    files = Folder(folder / "files")
    files.fill(users)
    filled = time.perf_counter() - began
    os.sync()
    size = files.allocated_bytes(sample=1000, count=users)
    rng = np.random.default_rng(0)
    drop(*(files.place(name_of(number)) for number in rng.integers(0, users, 400 * effort)))
    return {"fill_seconds": filled, "bytes": size, "bytes_per_signature": size / users, **_read(files, users, effort)}


def _read(place: Table | Folder, users: int, effort: int) -> dict[str, float]:
    """Times of a rival."""
    rng = np.random.default_rng(0)
    some = [name_of(number) for number in rng.integers(0, users, 400 * effort)]
    found = times("data_cold", place.read, some)
    found |= times("data_warm", place.read, 5 * some)
    fresh = itertools.cycle(data for _, data in list(signature_files(len(some), start=1)))
    return found | times("append", lambda name: place.append(name, next(fresh)), some)


def times(what: str, run: Callable[[str], object], names: list[str]) -> dict[str, float]:
    """Microseconds of one call, the median and the 99th percentile."""
    found = np.empty(len(names))
    for place, name in enumerate(names):
        began = time.perf_counter()
        run(name)
        found[place] = time.perf_counter() - began
    return {f"{what}_p{share}_us": 1e6 * float(np.percentile(found, share)) for share in (50, 99)}


def drop(*paths: Path) -> None:
    """Drop files' contents, and those of folders, from the system's memory; what is not on the disk yet is written first. Linux."""
    for path in paths:
        for file in path.iterdir() if path.is_dir() else [path]:
            handle = os.open(file, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


if __name__ == "__main__":
    main()
