"""Check the forms of a graph by numbers: on ONNX Runtime, each user's answers must be those of the graph that they were made from.

The users are the graph's tasks and, of each, some whose weights are changed at random, so that a sample that gets another user's weights
is seen. The form ``many`` runs all of them in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from isoform.compile.kind import Task
from isoform.compile.tensorrt.forms import Forms
from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.engines.tensorrt.form import TABLE, USER
from isoform.runtime.kind import HEAD, Graph
from isoform.runtime.learn.samples import spaced

__all__ = ["LIMIT", "gaps"]

LIMIT = 1e-3
"""Largest accepted difference of logits, relative to the largest logit of the user or 1."""
SAMPLES, CHANGED = 64, 2
"""Test samples, and changed users per task."""
CHANGE = 0.05
"""Standard deviation of a change, relative to the weight's root mean square."""


def gaps(forms: Forms, graph: Graph, file: bytes, tasks: Sequence[Task]) -> dict[str, float]:
    """Return form → largest difference of logits from the graph's, relative to the largest logit of the user or 1.

    Args:
        forms: The graph's forms, in float32.
        graph: The graph.
        file: Its ONNX file without weights.
        tasks: Tasks that the graph can run.
    """
    rng, vector = np.random.default_rng(0), forms.vector
    names = [name for name in graph.weights if name not in graph.constants]
    users = [(folded, head) for task in tasks for folded, head in _users(task, graph, names, rng)]
    x = spaced(tasks[0].test.images, SAMPLES)
    expected = [_answers(file, graph, folded, head, x) for folded, head in users]
    rows = np.stack([vector.vector_of({name: folded[name] for name in names}, head) for folded, head in users])
    one = open_session(forms.one, session_options(1), what="the form 'one'")
    found = {"one": 0.0}
    for row, logits in zip(rows, expected, strict=True):
        weights = {name: row[start : start + math.prod(shape)].reshape(shape) for name, (shape, start) in vector.places.items()}  # fmt: skip
        answers = one.run(None, {graph.input.name: x, **weights})[0]
        found["one"] = max(found["one"], _gap(answers[:, : logits.shape[1]], logits))
    if forms.many is not None:
        many = open_session(forms.many, session_options(1), what="the form 'many'")
        turn = np.arange(len(x), dtype=np.int32) % len(users)
        answers = many.run(None, {graph.input.name: x, TABLE: rows, USER: turn})[0]
        found["many"] = max(
            _gap(answers[turn == user, : logits.shape[1]], logits[turn == user]) for user, logits in enumerate(expected)
        )
    return found


def _users(
    task: Task, graph: Graph, names: Sequence[str], rng: np.random.Generator
) -> list[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    """Return a task's folded weights and logits layer, and some that are changed."""
    folded, head = dict(graph.fold(task.parts)), {name: task.parts[name] for name in HEAD}
    found: list[tuple[Mapping[str, Array], Mapping[str, Array]]] = [(folded, head)]
    for _ in range(CHANGED):
        changed = {name: _changed(folded[name], rng) for name in names}
        found.append(({**folded, **changed}, {name: _changed(array, rng) for name, array in head.items()}))
    return found


def _changed(array: Array, rng: np.random.Generator) -> Array:
    size = CHANGE * float(np.sqrt(np.mean(array.astype(np.float64) ** 2)))
    return (array + rng.normal(scale=size or CHANGE, size=array.shape)).astype(np.float32)


def _answers(file: bytes, graph: Graph, folded: Mapping[str, Array], head: Mapping[str, Array], x: Array) -> Array:
    session = portable_session(file, {name: folded[name] for name in graph.weights}, threads=1)
    result: Array = session.run(["logits"], {graph.input.name: x, **head})[0]
    return result


def _gap(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max(initial=0) / max(1.0, float(np.abs(expected).max(initial=0))))
