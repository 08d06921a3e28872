"""The form ``task``: a task's own network with its weights as constants, in float32, float16 or int8, with what it costs in accuracy.

It serves the task's base signature alone. An engine of it is the fastest that TensorRT can make, and the only one that can be int8: a user's
weights are inputs of the other forms, and TensorRT takes no weights in int8 that it does not know when it builds.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx

from isoform.compile.export.comparison import Comparison, compare
from isoform.compile.export.half import halved
from isoform.compile.export.int8 import quantised
from isoform.compile.kind import Task
from isoform.compile.tensorrt.forms import plain
from isoform.runtime.arrays import Array
from isoform.runtime.batches import slices
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.learn.samples import spaced

__all__ = ["TaskForm", "task_form"]

RUN = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskForm:
    """A task's form."""

    file: bytes
    answers: Comparison
    """On the task's test samples, beside the graph that it was made from."""


def task_form(
    task: Task, file: bytes, *, samples: str, precision: str, max_drop_points: float, calibration: int = 256
) -> TaskForm:
    """Write a task's form, and run it on ONNX Runtime beside the graph that it was made from.

    Args:
        task: The task.
        file: Its network as one complete ONNX file, layout ``fast``.
        samples: Name of the input of samples.
        precision: One of ``TASK_PRECISIONS``.
        max_drop_points: Points of accuracy (percent) that a precision may cost.
        calibration: Training samples that int8 is calibrated on.

    Raises:
        CompileError: If it costs more, or the network cannot be quantised.
    """
    model = onnx.load_from_string(file)
    nodes = [part for node in model.graph.node for part in plain(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    made: bytes = model.SerializeToString(deterministic=True)
    if precision == "fp16":
        made = halved(made, samples=samples)
    elif precision == "int8":
        made = quantised(made, samples=samples, x=spaced(task.train.images, calibration), tensorrt=True)
    expected, found = (_logits(some, samples, task.test.images) for some in (file, made))
    answers = compare(found, expected, task.test.labels)
    remedy = "build without --tasks or in another precision, or raise --max-drop"
    answers.check_drop(max_drop_points, f"task {task.name!r}: {precision}", remedy)
    return TaskForm(file=made, answers=answers)


def _logits(file: bytes, samples: str, x: Array) -> Array:
    session = open_session(file, session_options(1), what="the form 'task'")
    found: Array = np.concatenate([session.run(["logits"], {samples: x[place]})[0] for place in slices(len(x), RUN)])
    return found
