"""Figures of many signatures at once: which templates each uses, how alike they are, and how that came about during training.

    draw_tasks        one row per signature, one column per template of each layer     (Gumbel-Matrix, figure 5)
    draw_similarity   cosine of every two rows of that; as they are, or by clusters    (figure 6)
    draw_history      what one task used over the steps of training, layer by layer    (figure 8)

The usage of templates is ``Kind.usage``: ξ of a mixture, the mask of an allocation. Requires matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.commands.figures.style import heat_map, legend_beside, new_figure, styled
from isoform.runtime.errors import UsageError

__all__ = ["clusters", "draw_history", "draw_similarity", "draw_tasks", "read_record", "similarity"]

COLUMNS = 4
"""Panels beside each other in a history."""


@styled
def draw_tasks(usage: Mapping[str, Array]) -> Any:
    """Draw one row per signature.

    Args:
        usage: Name → ``Kind.usage``, shape (L, K), 0 to 1; all of the same shape.

    Returns:
        A matplotlib ``Figure``, not yet saved.
    """
    layers, templates = next(iter(usage.values())).shape
    rows = np.stack([values.reshape(-1) for values in usage.values()])
    figure = new_figure(2.2 + 0.16 * rows.shape[1], 1.1 + 0.16 * len(rows))
    axis = figure.subplots()
    image = heat_map(axis, rows, aspect="auto")
    _names(axis.set_yticks, usage)
    for layer in range(1, layers):
        axis.axvline(layer * templates - 0.5, color="white", linewidth=4)
    axis.set_xticks(
        [(layer + 0.5) * templates - 0.5 for layer in range(layers)], [f"layer {layer + 1}" for layer in range(layers)]
    )
    figure.colorbar(image, ax=axis, label="use of a template", shrink=0.8).outline.set_visible(False)
    different = len({row.tobytes() for row in rows})
    axis.set_title(f"{different} different of {len(rows)}; {100 * rows.mean():.0f} % in use")
    return figure


def similarity(usage: Mapping[str, Array]) -> Array:
    """Compute the cosine of every two signatures' usage, shape (T, T), -1 to 1; 0 for one that uses nothing."""
    rows = np.stack([values.reshape(-1).astype(np.float64) for values in usage.values()])
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosines: Array = rows @ rows.T
    return cosines


def clusters(cosines: Array) -> list[int]:
    """Order signatures so that similar ones stand side by side: the leaves of average-linkage clustering.

    Args:
        cosines: The result of ``similarity``.
    """
    groups = [[index] for index in range(len(cosines))]
    while len(groups) > 1:
        means = np.array([[cosines[np.ix_(a, b)].mean() for b in groups] for a in groups])
        np.fill_diagonal(means, -np.inf)
        first, second = sorted(divmod(int(means.argmax()), len(groups)))
        groups[first] += groups.pop(second)
    return groups[0]


@styled
def draw_similarity(usage: Mapping[str, Array], *, clustered: bool) -> Any:
    """Draw how alike every two signatures are; ``clustered`` puts similar ones side by side.

    Returns:
        A matplotlib ``Figure``, not yet saved.
    """
    cosines, names = similarity(usage), list(usage)
    order = clusters(cosines) if clustered else list(range(len(names)))
    size = 2.2 + 0.18 * len(names)
    figure = new_figure(size + 0.8, size)
    axis = figure.subplots()
    image = heat_map(axis, cosines[np.ix_(order, order)], vmin=min(0.0, float(cosines.min())))
    _names(axis.set_yticks, [names[index] for index in order])
    _names(axis.set_xticks, [names[index] for index in order], rotation=90)
    figure.colorbar(image, ax=axis, label="cosine similarity", shrink=0.8).outline.set_visible(False)
    return figure


def read_record(training: Mapping[str, Any], task: str, shape: tuple[int, int]) -> tuple[list[int], Array]:
    """Read what a task used over time from the record of a training run.

    Args:
        training: ``Bundle.training``.
        task: The task.
        shape: Layers and templates.

    Returns:
        The steps, and the usage at each, shape (steps, L, K), 0 to 1.

    Raises:
        UsageError: If the bundle has no such record.
    """
    record = training.get("record")
    try:
        texts = record["probabilities"][task]  # type: ignore[index]
        times = [np.frombuffer(bytes.fromhex(text), dtype=np.uint8).reshape(shape) for text in texts]
        steps = [int(step) for step in record["steps"]]  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        raise UsageError(
            f"the bundle has no record of what task {task!r} used during training; kinds that learn which templates to use write one"
        ) from None
    if len(steps) != len(times) or not times:
        raise UsageError(f"the bundle's record of task {task!r} has {len(times)} entries for {len(steps)} steps")
    return steps, np.stack(times) / 255


@styled
def draw_history(steps: Sequence[int], usage: Array, *, task: str) -> Any:
    """Draw what a task used over time, one panel per layer.

    Args:
        steps: Steps of training.
        usage: Usage at each, shape (steps, L, K), 0 to 1.
        task: Name of the task, for the title.
    """
    layers, templates = usage.shape[1:]
    columns = min(COLUMNS, layers)
    rows = math.ceil(layers / columns)
    figure = new_figure(1 + 2.4 * columns, 0.8 + 1.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for layer, axis in enumerate(axes[:layers]):
        for template in range(templates):
            axis.plot(steps, usage[:, layer, template], label=str(template), clip_on=False)
        axis.set_title(f"layer {layer + 1}")
        axis.set_ylim(0, 1)
    for axis in axes[layers:]:
        axis.set_visible(False)
    legend_beside(axes[columns - 1], title="template", ncols=1 + (templates - 1) // 8)
    figure.suptitle(task, parse_math=False)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("use of a template", fontsize=9)
    return figure


def _names(set_ticks: Any, names: Sequence[str] | Mapping[str, object], **style: Any) -> None:
    set_ticks(range(len(names)), [*names], parse_math=False, **style)
