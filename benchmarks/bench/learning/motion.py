"""MotionSense: 24 people, six activities, a phone in the pocket; windows by person.

One recording per person and activity, at 50 Hz, about half a minute to two minutes long. Of a held-out person, samples to learn
from come from the first half of each recording and test windows from the second, so that no row is in both.
Channels: gravity, rotation rate and user acceleration, three each. The attitude's angles are left out, because they jump at ±π
and repeat what gravity says. Source: Malekzadeh et al. 2019, "Mobile sensor data anonymization"; see shared/data/README.md.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.learning.held_out import EVERYTHING, RESCALED
from isoform.runtime.arrays import Array
from isoform.runtime.errors import DataError

__all__ = ["Motion"]

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


class Motion:
    """The study of people; see ``held_out.Study``.

    Args:
        data: The folder of data sets, with ``motion-sense`` in it.

    Raises:
        DataError: If it is not there.
    """

    shape, kernel, shift, unit = SHAPE, (1, 4), 4, "activity"
    ways: Mapping[str, tuple[str, ...]] = {
        "mixture + BN + head": ("mixture", "bn", "head"), "mixture + head": ("mixture", "head"), "mixture": ("mixture",), "delta": ("delta",), "BN": ("bn",),
        "head": ("head",), RESCALED: (), EVERYTHING: (),
    }  # fmt: skip
    shots = (1, 5, 10, 20)
    draws: Mapping[int, int] = {1: 5}
    """One window per activity is luck."""

    def __init__(self, data: Path) -> None:
        self._recordings = _read_recordings(data)

    def held_out(self, third: int) -> tuple[str, ...]:
        """A third of the people."""
        return tuple(str(person) for person in _split_people(third))

    def training(self, third: int) -> tuple[Array, Array, tuple[str, ...]]:
        """Every window of the others."""
        people, rows = sorted(set(PEOPLE) - set(_split_people(third))), self._recordings
        found = {
            a: [_windows(rows[p, a], range(0, len(rows[p, a]) - WIDTH + 1, 24)) for p in people] for a in ACTIVITIES
        }
        return *_gathered(found), ACTIVITIES

    def learning(self, user: str, *, shots: int, seed: int) -> tuple[Array, Array]:
        """Windows out of the first half of a person's recordings, as little overlapping as their number allows."""
        rng, found = np.random.default_rng((seed, int(user))), {}
        for activity in ACTIVITIES:
            rows = self._recordings[int(user), activity]
            starts = np.unique(np.linspace(0, len(rows) // 2 - WIDTH, 20).astype(int))
            found[activity] = [_windows(rows, sorted(rng.permutation(starts)[:shots]))]
        return _gathered(found)

    def testing(self, user: str) -> tuple[Array, Array]:
        """Windows out of the second half of a person's recordings, each half over the next."""
        found = {}
        for activity in ACTIVITIES:
            rows = self._recordings[int(user), activity]
            found[activity] = [_windows(rows, range(len(rows) // 2, len(rows) - WIDTH + 1, WIDTH // 2))]
        return _gathered(found)

    def classes(self, user: str) -> None:
        """Everyone's."""


def _read_recordings(data: Path) -> Recordings:
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


def _split_people(third: int) -> tuple[int, ...]:
    """The third that is held out."""
    return tuple(sorted(np.random.default_rng(0).permutation(PEOPLE).tolist()[third::3]))


def _windows(rows: Array, starts: Sequence[int]) -> Array:
    """Windows that begin at these rows: shape (n, 9, 1, WIDTH), float32."""
    return np.stack([rows[start : start + WIDTH].T[:, None, :] for start in starts])


def _gathered(by_activity: dict[str, list[Array]]) -> tuple[Array, Array]:
    x = np.concatenate([part for parts in by_activity.values() for part in parts])
    counts = [sum(map(len, parts)) for parts in by_activity.values()]
    return x, np.repeat(np.arange(len(counts)), counts)
