"""The default file of less than 1 KiB beside its controls (``controls.py``) and beside every part of a signature alone, for people and for
digits in new domains: accuracy and bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.learning.controls import (
    CONTROLS,
    Control,
    by_layers,
    fitted,
    principal_directions,
    size_of,
    tuned_for,
)
from bench.learning.domains import Domain, drawn
from bench.learning.held_out import BASE, KILOBYTE
from bench.learning.motion import Motion, Trials
from bench.processes import pool
from isoform.runtime import Runtime
from isoform.runtime.arrays import Array
from isoform.train.kinds.mixture.network import IsometricNetwork

__all__ = ["OTHERS", "PARTS", "Row", "beside_domains", "beside_people", "means_of", "sizes_of"]

PRINCIPAL = "principal directions"
OTHERS = (*CONTROLS, PRINCIPAL)
"""The controls."""
PARTS: Mapping[str, tuple[str, ...]] = {
    "coefficients": ("coefficients",),
    "mixture": ("mixture",),
    "delta": ("delta",),
    KILOBYTE: ("delta", "coefficients"),
    "head": ("head",),
    "mixture + BN + head": ("mixture", "bn", "head"),
}
"""Way → what of a signature moves; from small to large."""
Row = tuple[str, str, str, float, float, int]
"""Way, what it was tested on, user or draw, accuracy before and after in percent, bytes of the file."""


def beside_people(
    study: Motion,
    other: Trials,
    path: Path,
    users: Sequence[str],
    *,
    others: Sequence[int],
    ways: Sequence[str],
    shots: int,
) -> Iterator[Row]:
    """Every way for every user, tested on the same occasion and on another.

    Args:
        study: People, tested on the occasion that they learn from.
        other: The same people, tested on another.
        path: A bundle that was trained without them.
        users: Who is held out.
        others: Who is not, whose fine-tuned networks give the principal directions; fewer than two: without that control.
        ways: Keys of ``PARTS``.
        shots: Windows per activity of a person. From 20 on a single fold chooses a control's rate and steps, instead of four.
    """
    global _people
    _people = study, other, path, shots
    with pool(2, start="fork") as workers:
        tuned = list(workers.map(_tuned, map(str, others))) if len(others) > 1 else []
        jobs = [(user, way) for way in (*ways, *CONTROLS, *([PRINCIPAL] if tuned else [])) for user in users]
        yield from (row for rows in workers.map(_person, [(*job, tuned) for job in jobs]) for row in rows)


_people: tuple[Motion, Trials, Path, int]


def _tuned(user: str) -> Mapping[str, Array]:
    study, _, path, _ = _people
    with Runtime.open(path) as runtime:
        x, labels = study.learning(user, shots=20, seed=0)
        found = tuned_for(runtime.bundle, runtime.signature(BASE), x, labels, seed=0)
        return {name: value.detach().numpy() for name, value in found.named_parameters()}


def _person(job: tuple[str, str, list[Mapping[str, Array]]]) -> list[Row]:
    (user, way, tuned), (study, other, path, shots) = job, _people
    x, labels = study.learning(user, shots=shots, seed=0)
    with Runtime.open(path) as runtime:
        *runs, size = _runs(runtime, [BASE], way, x, labels, tuned, seed=0)
        tests = {"same occasion": study.testing(user), "another occasion": other.testing(user)}
        return [
            (way, name, user, *(_percent(run(samples), expected) for run in runs), size)
            for name, (samples, expected) in tests.items()
        ]


def beside_domains(path: Path, domains: Sequence[Domain], *, draws: int, ways: Sequence[str]) -> Iterator[Row]:
    """Every way but principal directions, which need other users, for every domain of a bundle's digits; ``ways``: keys of ``PARTS``."""
    global _domains
    _domains = path, domains
    jobs = [(place, draw, way) for place in range(len(domains)) for draw in range(draws) for way in (*ways, *CONTROLS)]
    with pool(2, start="fork") as workers:
        yield from workers.map(_domain, jobs)


_domains: tuple[Path, Sequence[Domain]]


def _domain(job: tuple[int, int, str]) -> Row:
    (place, draw, way), (path, domains) = job, _domains
    name, learning, testing = domains[place]
    x, labels = drawn(learning, draw)
    with Runtime.open(path) as runtime:
        *runs, size = _runs(runtime, runtime.tasks, way, x, labels, [], seed=draw)
        before, after = (_percent(run(testing.images), testing.labels) for run in runs)
    return way, name, str(draw), before, after, size


def means_of(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Tested on → way → mean accuracy in percent; way ``start`` first."""
    table: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(row[1] for row in rows):
        some = [row for row in rows if row[1] == name]
        table[name] = {"start": float(np.mean([row[3] for row in some]))}
        for way in dict.fromkeys(row[0] for row in some):
            table[name][way] = float(np.mean([row[4] for row in some if row[0] == way]))
    return table


def sizes_of(rows: Sequence[Row]) -> dict[str, int]:
    """Way → bytes of its largest file."""
    return {way: max(row[5] for row in rows if row[0] == way) for way in dict.fromkeys(row[0] for row in rows)}


def _runs(
    runtime: Runtime, tasks: Sequence[str], way: str, x: Array, labels: Array, tuned: list[Mapping[str, Array]], *, seed: int
) -> tuple[Callable[[Array], Array], Callable[[Array], Array], int]:  # fmt: skip
    """Samples → logits, before and after, and bytes. All start from the base that the runtime chooses for the way, or for the default."""
    first = runtime.signature(tasks[0]) if len(tasks) == 1 else None
    # a control only needs the start, which does not depend on the steps
    steps = {} if way in PARTS else {"steps": 1}
    outcome = runtime.fit(x, labels, first, parts=PARTS.get(way, PARTS[KILOBYTE]), seed=seed, **steps)
    start, end = outcome.start, outcome.signature
    if way in PARTS:
        size = len(end.encode()) if outcome.improved else 0
        return lambda samples: runtime.predict(samples, start), lambda samples: runtime.predict(samples, end), size

    def make() -> IsometricNetwork:
        return by_layers(runtime.bundle, start)

    control: Control = CONTROLS[way] if way in CONTROLS else _principal(runtime, start, tuned)
    run = fitted(make, control, x, labels, seed=seed)
    return lambda samples: runtime.predict(samples, start), run, size_of(way, control(make()))


def _principal(runtime: Runtime, start: object, tuned: list[Mapping[str, Array]]) -> Control:
    import torch

    networks = [by_layers(runtime.bundle, start) for _ in range(len(tuned) + 1)]
    with torch.no_grad():
        for network, values in zip(networks[1:], tuned, strict=True):
            for name, value in values.items():
                network.get_parameter(name).copy_(torch.from_numpy(np.array(value)))
    return principal_directions(networks)


def _percent(logits: Array, labels: Array) -> float:
    return 100 * float((logits.argmax(axis=1) == labels).mean())
