"""Results of held-out users as figures and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.harness import print_table
from bench.learning.held_out import EVERYTHING, RESCALED, Result, Study, first_way, plot

__all__ = ["report", "summary"]


def report(study: Study, results: list[Result], title: str, *, picture: Path | None) -> None:
    """A table by ways, one by users, and the picture."""
    columns = [f"{shots} per {study.unit}" for shots in study.shots]
    print_table(title, ["what moves", "bytes", *columns], _rows(study, results))
    default = first_way(study, results)
    users = dict.fromkeys(r[2] for r in results)
    found = {(r[1], r[2]): f"{r[3]:.1f} → {r[4]:.1f}" for r in results if r[0] == default}
    rows = [[user, *(found.get((shots, user), "") for shots in study.shots)] for user in users]
    print_table(f"each one: start → {default}", ["held out", *columns], rows)
    if picture:
        plot(study, results, picture)


def summary(study: Study, results: list[Result]) -> dict[str, object]:
    """The figures that the project is held to."""
    default = first_way(study, results)

    def gains(way: str) -> dict[int, list[float]]:
        found = {s: [r[4] - r[3] for r in results if r[:2] == (way, s)] for s in study.shots}
        return {shots: values for shots, values in found.items() if values}

    def means(way: str) -> dict[str, float]:
        return {str(shots): round(float(np.mean(values)), 3) for shots, values in gains(way).items()}

    start, everything = gains(default), gains(EVERYTHING)
    shares = {str(s): round(float(np.mean(start[s]) / np.mean(everything[s])), 3) for s in start if s in everything}
    sizes = {way: max((r[5] for r in results if r[0] == way), default=0) for way in study.ways}
    return {
        "held_out": len({r[2] for r in results}),
        "start_accuracy": {str(s): round(float(np.mean([r[3] for r in results if r[:2] == (default, s)])), 3) for s in gains(default)},
        "mean_gain_points": means(default), "worst_person_points": round(min(min(values) for values in gains(default).values()), 3),
        "everything_gain_points": means(EVERYTHING), "share_of_gain": shares,
        "mixture_gain_points": means("mixture"), "head_gain_points": means("head"), "head_at_equal_size_gain_points": means(RESCALED),
        "signature_bytes": {way: size for way, size in sizes.items() if size},
    }  # fmt: skip


def _rows(study: Study, results: list[Result]) -> list[list[str]]:
    def cell(way: str, shots: int, place: int) -> str:
        values = [float(r[place]) for r in results if r[:2] == (way, shots)]
        return f"{np.mean(values):.1f}" if values else ""

    default = first_way(study, results)
    rows = [["start", "", *(cell(default, shots, 3) for shots in study.shots)]]
    for way in study.ways:
        if any(r[0] == way for r in results):
            size = max(r[5] for r in results if r[0] == way)
            rows.append([way, f"{size:,}", *(cell(way, shots, 4) for shots in study.shots)])
    return rows
