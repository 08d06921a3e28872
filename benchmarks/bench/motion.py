"""MotionSense: 24 people, six activities, a phone in the pocket; windows by person.

One recording per person and activity, at 50 Hz, about half a minute to two minutes long. Of a held-out person, samples to learn
from come from the first half of each recording and test windows from the second, so that no row is in both.
Channels: gravity, rotation rate and user acceleration, three each. The attitude's angles are left out, because they jump at ±π
and repeat what gravity says. Source: Malekzadeh et al. 2019, "Mobile sensor data anonymization"; see shared/data/README.md.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isoform.runtime.errors import DataError
from isoform.runtime.spec import Array

__all__ = [
    "ACTIVITIES",
    "PEOPLE",
    "SHAPE",
    "learning_windows",
    "read_recordings",
    "split_people",
    "test_windows",
    "windows",
]

ARCHIVE = "motion-sense/A_DeviceMotion_data_trials11-16.tar.xz"
ACTIVITIES = ("dws", "ups", "sit", "std", "wlk", "jog")
PEOPLE = tuple(range(1, 25))
COLUMNS = range(4, 13)
WIDTH = 64
"""Rows of a window: 1.28 s; the shortest recording has 377 rows."""
SHAPE = (len(COLUMNS), 1, WIDTH)
"""One sample: channels, height, width."""

Recordings = dict[tuple[int, str], Array]
"""(person, activity) → rows, shape (moments, 9), float32."""


def read_recordings(data: Path) -> Recordings:
    """Every recording.

    Args:
        data: The folder of data sets, with ``motion-sense`` in it.

    Raises:
        DataError: If it is not there.
    """
    path = data / ARCHIVE
    if not path.is_file():
        raise DataError(
            f"{path} is missing; the benchmark on people needs the MotionSense archive, see shared/data/README.md"
        )
    found: Recordings = {}
    with tarfile.open(path) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if len(parts) == 3 and parts[2].endswith(".csv"):
                file = archive.extractfile(member)
                assert file is not None
                rows = np.loadtxt(io.BytesIO(file.read()), delimiter=",", skiprows=1, usecols=COLUMNS, dtype=np.float32)
                found[int(parts[2][4:-4]), parts[1].split("_")[0]] = rows
    assert len(found) == len(PEOPLE) * len(ACTIVITIES), len(found)
    return found


def split_people(third: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two thirds of the people to train on, and the third that is held out; over thirds 0, 1, 2 everybody is, once."""
    order = np.random.default_rng(0).permutation(PEOPLE).tolist()
    held = tuple(sorted(order[third::3]))
    return tuple(sorted(set(PEOPLE) - set(held))), held


def windows(rows: Array, starts: Sequence[int]) -> Array:
    """Windows that begin at these rows: shape (n, 9, 1, WIDTH), float32."""
    return np.stack([rows[start : start + WIDTH].T[:, None, :] for start in starts])


def all_windows(recordings: Recordings, people: Sequence[int], *, stride: int) -> tuple[Array, Array]:
    """Every window of some people: samples and activities."""
    return _gathered(
        {
            a: [windows(recordings[p, a], range(0, len(recordings[p, a]) - WIDTH + 1, stride)) for p in people]
            for a in ACTIVITIES
        }
    )


def learning_windows(recordings: Recordings, person: int, *, shots: int, seed: int) -> tuple[Array, Array]:
    """So many windows per activity out of the first half of a person's recordings, as little overlapping as that allows."""
    rng, found = np.random.default_rng((seed, person)), {}
    for activity in ACTIVITIES:
        rows = recordings[person, activity]
        last = len(rows) // 2 - WIDTH
        starts = np.unique(np.linspace(0, last, 20).astype(int))
        found[activity] = [windows(rows, sorted(rng.permutation(starts)[:shots]))]
    return _gathered(found)


def test_windows(recordings: Recordings, person: int) -> tuple[Array, Array]:
    """Windows out of the second half of a person's recordings, each half over the next."""
    found = {}
    for activity in ACTIVITIES:
        rows = recordings[person, activity]
        found[activity] = [windows(rows, range(len(rows) // 2, len(rows) - WIDTH + 1, WIDTH // 2))]
    return _gathered(found)


def _gathered(by_activity: dict[str, list[Array]]) -> tuple[Array, Array]:
    x = np.concatenate([part for parts in by_activity.values() for part in parts])
    counts = [sum(map(len, parts)) for parts in by_activity.values()]
    return x, np.repeat(np.arange(len(counts)), counts)
