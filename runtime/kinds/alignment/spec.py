"""Sizes of the networks of kind ``alignment``: one body per task, of which some weights are cut into blocks that hypermodules generate.

With H_k the hypermodules, shape (c, m · n), z_ℓ the context of location ℓ, shape (c,), and ψ(ℓ) a whole number:

    block ℓ of a task's aligned weights = z_ℓ H_ψ(ℓ)              ψ(ℓ) < K: a generic module, which several locations use
                                        = V_ψ(ℓ) - K              ψ(ℓ) ≥ K: a specific one, stored as the block that it generated

The locations of a task are the blocks of its aligned weights, one weight after the other (``packing.py``). All other weights are the task's:
of all its signatures, or in a signature's part ``private``.

Source: MUIR, section 3.1, equation 5, and section 4.2 (generic and specific). Must never import torch, onnx or onnxruntime.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from isoform.runtime.bodies.body import Body
from isoform.runtime.errors import SignatureError, SpecError
from isoform.runtime.formats.metadata import members_of
from isoform.runtime.formats.signature import check_name
from isoform.runtime.inputs import Input, is_whole
from isoform.runtime.kind import HEAD
from isoform.runtime.kinds.alignment.packing import Cut

__all__ = ["AlignedTask", "AlignmentSpec"]

SIDE, CONTEXT, LOCATIONS, TASKS = 1024, 256, 1 << 20, 1024
"""Maximum side of a block, length of a context, number of locations and of tasks."""
VALUES = 1 << 28
"""Maximum number of values of all blocks together, and of all modules."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignedTask:
    """The network of one task."""

    body: Body
    aligned: tuple[str, ...]
    """Names of the weights that blocks make, two axes or more each, in the order of their locations."""
    private: tuple[str, ...] = ()
    """Names of the weights in the part ``private``, in the body's order."""
    contexts: bool = True
    """Whether its signatures have contexts: some of its locations use generic modules."""

    def __post_init__(self) -> None:
        """Check that every weight has one source."""
        named = [*self.aligned, *self.private]
        unknown = sorted({*map(str, named)} - set(self.body.weights))
        if unknown or len({*named}) != len(named):
            raise SpecError(
                f"aligned and private weights must be different weights of the body, but {unknown or 'one'} is not"
            )
        if not isinstance(self.contexts, bool):
            raise SpecError(f"contexts is {self.contexts!r}, but true or false was expected")
        for name in self.aligned:
            if len(self.body.weights[name]) < 2:
                raise SpecError(
                    f"weight {name!r} is a vector, but blocks make weights of two axes or more; leave it the task's own"
                )

    @functools.cached_property
    def shared(self) -> tuple[str, ...]:
        """Names of the weights that all signatures of the task share."""
        other = {*self.aligned, *self.private}
        return tuple(name for name in self.body.weights if name not in other)

    @property
    def parts(self) -> frozenset[str]:
        """Names of the parts that a signature of this task has."""
        norms = ("bn.affine", "bn.statistics") if self.body.norms and self.body.private_norms else ()
        own = [name for name, there in (("contexts", self.contexts), ("private", bool(self.private))) if there]
        return frozenset({"alignment", *own, *norms, *HEAD})


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignmentSpec:
    """Sizes of all networks of a bundle of kind ``alignment``. Raises ``SpecError`` on a size out of range."""

    m: int
    """Inputs of a block."""
    n: int
    """Outputs of a block."""
    context: int
    """c, length of a context; 0 if there are none, and locations share whole blocks."""
    hypermodules: int
    """K, number of generic modules."""
    specific: int
    """Number of specific modules."""
    tasks: Mapping[str, AlignedTask]
    kind: str = "alignment"

    def __post_init__(self) -> None:
        """Check every field. The message names the one that is out of range."""
        if self.kind != "alignment":
            raise SpecError(f"kind is {self.kind!r}, but 'alignment' was expected")
        limits = {
            "m": (1, SIDE),
            "n": (1, SIDE),
            "context": (0, CONTEXT),
            "hypermodules": (0, LOCATIONS),
            "specific": (0, LOCATIONS),
        }
        for name, (low, high) in limits.items():
            if not is_whole(getattr(self, name), low, high):
                raise SpecError(
                    f"{name} is {getattr(self, name)!r}, but a whole number from {low} to {high} was expected"
                )
        if not self.context and self.hypermodules:
            raise SpecError(f"context is 0, but there are {self.hypermodules} hypermodules, which need contexts")
        if not self.hypermodules and any(task.contexts for task in self.tasks.values()):
            raise SpecError("a task has contexts, but there are no hypermodules")
        if not 1 <= len(self.tasks) <= TASKS:
            raise SpecError(f"the bundle has {len(self.tasks)} tasks, but 1 to {TASKS} were expected")
        # a large block of which a small weight needs a corner costs memory all the same
        blocks = max(sum(self.locations(task) for task in self.tasks), self.hypermodules * self.context + self.specific)
        if blocks > LOCATIONS or blocks * self.m * self.n > VALUES:
            raise SpecError(
                f"the networks have {blocks:,} blocks of {self.m}×{self.n}, but at most {LOCATIONS:,}, of {VALUES:,} numbers, are supported"
            )

    def of(self, task: str) -> AlignedTask:
        """Return a task's network. Raises ``SignatureError`` if there is no such task."""
        if task not in self.tasks:
            raise SignatureError(f"there is no task {task!r}; the bundle has {', '.join(self.tasks)}")
        return self.tasks[task]

    def cuts(self, task: str) -> dict[str, Cut]:
        """Return name → cut of a task's aligned weights, in the order of their locations."""
        network = self.of(task)
        return {name: Cut(tuple(network.body.weights[name]), self.m, self.n) for name in network.aligned}

    def locations(self, task: str) -> int:
        """Return L, the number of a task's locations."""
        return sum(cut.count for cut in self.cuts(task).values())

    def _of_task(self, task: str) -> dict[str, tuple[int, ...]]:
        network = self.tasks[task]
        shapes: dict[str, tuple[int, ...]] = {f"body.{task}": (network.body.size,)}
        shapes |= {f"shared.{task}/{name}": network.body.weights[name] for name in network.shared}
        if network.body.norms and not network.body.private_norms:
            shapes |= {f"{part}.{task}": (2, network.body.channels) for part in ("bn.affine", "bn.statistics")}
        return shapes

    @functools.cached_property
    def template_shapes(self) -> dict[str, tuple[int, ...]]:
        """As ``Spec.template_shapes``: hypermodules, specific blocks, and of each task its graph, its shared weights, and BN if it is shared."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.hypermodules:
            shapes["hypermodules"] = (self.hypermodules, self.context, self.m * self.n)
        if self.specific:
            shapes["blocks"] = (self.specific, self.m * self.n)
        for task in self.tasks:
            shapes |= self._of_task(task)
        return shapes

    @property
    def bytewise(self) -> frozenset[str]:
        """As ``Spec.bytewise``: the graphs."""
        return frozenset(f"body.{task}" for task in self.tasks)

    @functools.cached_property
    def part_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """As ``Spec.part_shapes``: sizes are free, because they differ between tasks."""
        used = {part for network in self.tasks.values() for part in network.parts}
        shapes: dict[str, tuple[int | None, ...]] = {
            "alignment": (None,), "contexts": (None, self.context), "private": (None,), "bn.affine": (2, None), "bn.statistics": (2, None),
        }  # fmt: skip
        shapes |= {"logits.weight": (None, None), "logits.bias": (None,)}
        return {name: shape for name, shape in shapes.items() if name in used}

    def required_of(self, task: str) -> frozenset[str]:
        """As ``Spec.required_of``: all parts of the task's network."""
        return self.of(task).parts

    def input_of(self, task: str) -> Input:
        """As ``Spec.input_of``: each task has its own."""
        return self.of(task).body.input

    def sample_bytes(self, task: str, shape: tuple[int, ...]) -> int:
        """As ``Spec.sample_bytes``: a guess from the sample and the weights, since a graph says nothing of its inside."""
        body = self.of(task).body
        widest = max((shape[0] for shape in body.weights.values()), default=1)
        return 4 * max(32 * math.prod(shape), 8 * body.embedding, widest * math.prod(shape[-1:]))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; ``from_json`` is the inverse."""
        tasks = {
            name: {
                "body": task.body.to_json(), "aligned": list(task.aligned), "private": list(task.private), "contexts": task.contexts,
            }
            for name, task in self.tasks.items()
        }  # fmt: skip
        return {
            "kind": self.kind, "m": self.m, "n": self.n, "context": self.context, "hypermodules": self.hypermodules,
            "specific": self.specific, "tasks": tasks,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: object) -> AlignmentSpec:
        """Read what ``to_json`` returned. Raises ``SpecError`` if it is malformed or out of range."""
        fields = members_of(cls, value, "the network's description")
        entries = fields.pop("tasks")
        if not isinstance(entries, dict) or not 1 <= len(entries) <= TASKS:
            raise SpecError(f"tasks is a {type(entries).__name__}, but a mapping of 1 to {TASKS} tasks was expected")
        try:
            return cls(tasks={_name(name): _task(entry, name) for name, entry in entries.items()}, **fields)
        except (TypeError, ValueError) as problem:
            raise SpecError(f"the network's description has a field of the wrong type: {problem}") from None


def _name(name: object) -> str:
    try:
        return check_name(name)
    except SignatureError as problem:
        raise SpecError(str(problem)) from None


def _task(value: object, name: object) -> AlignedTask:
    fields = members_of(AlignedTask, value, f"task {name!r:.80}")
    for field in ("aligned", "private"):
        names = fields.get(field, ())
        if not isinstance(names, tuple) or not all(isinstance(entry, str) for entry in names):
            raise SpecError(f"{field} of task {name!r:.80} is {names!r:.80}, but a list of names was expected")
    return AlignedTask(body=Body.from_json(fields.pop("body")), **fields)
