"""MotionSense: 24 people, six activities, a phone in the pocket; windows by person.

Two recordings per person and activity, of two occasions, at 50 Hz, about half a minute to two minutes long. Templates are trained on
both occasions of the other people: what differs between occasions, such as how the phone is carried, is learned from those who have
several. Of a held-out person, samples to learn from come from the first half of each recording of the one occasion, and test windows from
its second half (``Motion``), or from the other occasion (``Trials``); no row is in both.
Channels: gravity, rotation rate and user acceleration, three each. The attitude's angles are left out, because they jump at ±π
and repeat what gravity says. Source: Malekzadeh et al. 2019, "Mobile sensor data anonymization"; see shared/data/README.md.
"""

from __future__ import annotations

import copy
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.learning.held_out import EVERYTHING, KILOBYTE, RESCALED, Samples
from isoform.runtime.arrays import Array
from isoform.runtime.errors import DataError

__all__ = ["Motion", "Trials"]

LATER = "motion-sense/A_DeviceMotion_data_trials1-9_first3000.tar.xz"
"""Another occasion."""
ARCHIVE = "motion-sense/A_DeviceMotion_data_trials11-16.tar.xz"
ACTIVITIES = ("dws", "ups", "sit", "std", "wlk", "jog")
CLASSES = tuple(sorted(ACTIVITIES))
"""Labels are indices of these."""
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

    shape, kernel, shift, templates, unit = SHAPE, (1, 4), 4, 16, "activity"
    ways: Mapping[str, tuple[str, ...]] = {
        KILOBYTE: ("delta", "coefficients"), "mixture + BN + head": ("mixture", "bn", "head"), "mixture": ("mixture",), "delta": ("delta",),
        "coefficients": ("coefficients",), "BN": ("bn",), "head": ("head",), RESCALED: (), EVERYTHING: (),
    }  # fmt: skip
    shots = (1, 5, 10, 20)
    draws: Mapping[int, int] = {1: 5}
    """One window per activity is luck."""

    def __init__(self, data: Path) -> None:
        self._recordings, self._others = _read_recordings(data / ARCHIVE), _read_recordings(data / LATER)
        # the same content as that person's earlier recording of sitting
        del self._others[1, "sit"]

    def held_out(self, third: int) -> tuple[str, ...]:
        """A third of the people."""
        return tuple(str(person) for person in _split_people(third))

    def others(self, third: int) -> tuple[int, ...]:
        """The people that are not held out."""
        return tuple(sorted(set(PEOPLE) - set(_split_people(third))))

    def training(self, third: int) -> tuple[Samples, Samples, tuple[str, ...]]:
        """Every window of the others, of both occasions; tested on the held-out people's, one after the other."""

        def windows(people: Sequence[int], every: int) -> Samples:
            recorded = [
                self._cut(rows, person, every) for rows in (self._recordings, self._others) for person in people
            ]
            return _gathered({a: [found[a] for found in recorded if a in found] for a in ACTIVITIES})

        return windows(self.others(third), 24), windows(_split_people(third), WIDTH), CLASSES

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

    @staticmethod
    def _cut(recordings: Recordings, person: int, every: int) -> dict[str, Array]:
        """All windows of a person by activity."""
        rows = {a: recordings[person, a] for a in ACTIVITIES if (person, a) in recordings}
        return {a: _windows(found, range(0, len(found) - WIDTH + 1, every)) for a, found in rows.items()}


class Trials(Motion):
    """The same people, tested on another occasion than that they learn from; see ``held_out.Study``.

    Args:
        data: As in ``Motion``.

    Raises:
        DataError: If the data are not there.
    """

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self._turned = False

    def testing(self, user: str) -> tuple[Array, Array]:
        """Windows out of the other occasion's recordings, one after the other."""
        found = self._cut(self._others, int(user), WIDTH)
        x, labels = _gathered({a: [found[a]] if a in found else [] for a in ACTIVITIES})
        return (_turned(x, np.random.default_rng(int(user))) if self._turned else x), labels

    def turned(self) -> Trials:
        """The same, where the phone is also turned on the occasion that is tested, by 10 to 30°, and measures up to a tenth more or less."""
        found = copy.copy(self)
        found._turned = True
        return found


def _turned(x: Array, rng: np.random.Generator) -> Array:
    """Turn all three vectors about one random axis."""
    axis, angle = rng.normal(size=3), np.deg2rad(rng.uniform(10, 30))
    a, b, c = axis / np.linalg.norm(axis)
    cross = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues' formula
    turned = np.einsum("ij,ngjt->ngit", turn, x.reshape(len(x), 3, 3, -1))
    turned[:, 1:] *= rng.uniform(0.9, 1.1)  # gravity is as strong as it was
    return np.ascontiguousarray(turned.reshape(x.shape), dtype=np.float32)


def _read_recordings(path: Path) -> Recordings:
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


def _gathered(by_activity: dict[str, list[Array]]) -> Samples:
    x = np.concatenate([part for parts in by_activity.values() for part in parts])
    counts = [sum(map(len, parts)) for parts in by_activity.values()]
    return x, np.repeat([CLASSES.index(activity) for activity in by_activity], counts)
