"""``wrap``: your own module as shared weights and one signature per task, user or domain.

    wrapped = wrap(model.eval(), example, classes=["cat", "dog"])        # what it computes is what the model computes
    wrapped.bundle().write("bundle/")

Parameters come from four places (``sources.py``): shared by all tasks; a task's own; mixed from the templates of a group, which are the
model's own weights at the start; the logits layer, which is always a task's own. The module itself is not rewritten: it is called with
these parameters instead of its own (``torch.func.functional_call``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.runtime.kinds.module.network import ModuleNetwork
from isoform.runtime.kinds.module.spec import ModuleSpec
from isoform.train.modules.body import check_body, norm_rows
from isoform.train.modules.checks import checked_module, input_from
from isoform.train.modules.export import parameters_of
from isoform.train.modules.front import front_from
from isoform.train.modules.outline import outlined
from isoform.train.modules.sources import changed_weights

__all__ = ["Wrapped", "wrap"]


def wrap(
    module: nn.Module, example: Tensor, *, classes: Sequence[str], tasks: Sequence[str] = ("base",), kind: Literal["module", "mixture"] = "module",
    private: Sequence[str] = ("norm",), delta: Sequence[str] = (), rank: int = 4, front: str | Path | bytes | nn.Module | None = None,
    front_output: str | None = None, input_name: str | None = None, vocabulary: int | None = None, lengths: tuple[int, int] | None = None,
) -> Wrapped:  # fmt: skip
    """Wrap a module.

    Args:
        module: Samples (n, …) → logits (n, classes), in evaluation mode, float32, on the processor; ends in a linear layer. Copied.
        example: Samples, shape (n, …): float32 vectors, windows or images, or int64 tokens.
        classes: Names of the classes, one per logit.
        tasks: Names of the tasks, users or domains that it is trained for; all begin as the module is.
        kind: ``mixture`` makes layers of equal shape mixtures of each other's weights, ``module`` shares them as they are.
        private: What is a task's own besides its logits layer: ``norm``, ``bias``, names or patterns of parameters.
        delta: Names or patterns of weights of which a change of low rank is a task's own: W = W₀ + U V, of which V, the directions that W₀ reads
            most (its first right singular vectors), is shared, and U is 0 at first.
        rank: Rank of these changes, 1 or more.
        front: A network that comes before the module and is the same for everybody, a torch module or an ONNX file: ``module`` takes its
            features, and ``example`` holds samples for it. It is computed once per sample, and never trained.
        front_output: Name of the tensor of an ONNX file that is the features; None for its first output.
        input_name: Name of the input in graphs and requests; by default that of its type.
        vocabulary: Number of different tokens; by default that of the first embedding.
        lengths: Shortest and longest length of the last axis, if it may vary.

    Returns:
        A module that computes what ``module`` computes, for every task.

    Raises:
        UsageError: If there is no such kind, or tasks have no names or the same.
        SpecError: If a layer is in training mode, on another device, of another type than float32, or shares memory with another.
        InputError: If the example does not describe samples.
        CompileError: If the module cannot be exported, or what it computes depends on more than its samples.
    """
    if kind not in ("module", "mixture"):
        raise UsageError(
            f"kind is {kind!r}, but 'module' or 'mixture' was expected; networks that share blocks are made by isoform.train.kinds.alignment.align"
        )
    checked_module(module)
    samples, before = None, b""
    if front is not None:
        if lengths is not None:
            raise UsageError(
                "lengths leaves the length of samples open, which a front cannot have; pad them to one length"
            )
        samples = input_from(example, name=input_name, vocabulary=vocabulary, lengths=None, module=module)
        before, example = front_from(front, samples, example, output=front_output)
        input_name, vocabulary = "features", None
    takes = input_from(example, name=input_name, vocabulary=vocabulary, lengths=lengths, module=module)
    module = copy.deepcopy(module)
    changed = changed_weights(module, delta)
    outline = outlined(
        module, example, takes, classes=classes, private=private, kind=kind, differing=lambda head: changed - {*head}
    )
    sources = outline.sources
    # the logits layer is a task's own already; one that is an embedding as well is shared, and both must stay the same
    deltas = tuple(name for name in outline.body.weights if name in changed and name not in outline.head)
    spec = ModuleSpec(
        body=outline.body, private=sources.private, groups=sources.groups, deltas=deltas, rank=rank if deltas else 0, samples=samples,
        front_size=len(before),
    )  # fmt: skip
    wrapped = Wrapped(module, spec, outline.file, head=outline.head, classes=classes, tasks=tasks, front=before)
    wrapped.gap = check_body(module, example, takes, outline.file, wrapped.weights(tasks[0]))
    return wrapped


class Wrapped(nn.Module):
    """A wrapped module; made by ``wrap``.

    Attributes:
        spec: Sizes of the bundle.
        gap: Largest difference of the exported graph's logits from the module's.
        shared: The shared weights, in the order of ``spec.shared``.
        templates: The templates of each group, (G, *shape).
        mixture: Coefficients of each task, (T, M).
        delta: U of the changed weights of each task, (T, D).
        downs: Their V, (rank, inputs); shared, buffers.
        private: The tasks' own weights, (T, P).
        affine: γ and β of BN, (T, 2, N); (1, 2, N) if BN is shared.
        statistics: BN's means and variances, of the same shape; a buffer.
        heads: The logits layers' weights, T of (classes, embedding); none if it is also an embedding (tied).
        biases: Their biases, T of (classes,).
    """

    statistics: Tensor

    def __init__(
        self, module: nn.Module, spec: ModuleSpec, file: bytes, *, head: tuple[str, str | None], classes: Sequence[str], tasks: Sequence[str],
        front: bytes = b"",
    ) -> None:  # fmt: skip
        super().__init__()
        if not tasks or len({*tasks}) != len(tasks):
            raise UsageError(f"tasks is {list(tasks)}, but one or more different names were expected")
        # in a list, so that its parameters are not this module's
        self._module, self._file, self._head, self._front = [module.requires_grad_(False)], file, head, front
        self.spec, self.gap, self._tasks, self._classes = spec, 0.0, tuple(tasks), tuple(classes)
        own, count = {name: value.detach().clone() for name, value in parameters_of(module).items()}, len(tasks)
        self._tied = head[0] in spec.body.weights
        self.shared = nn.ParameterList(own[name] for name in spec.shared)
        self.templates = nn.ParameterList(torch.stack([own[name] for name in group]) for group in spec.groups)
        identity = [torch.eye(len(group)).flatten() for group in spec.groups]
        self.mixture = nn.Parameter(torch.cat([*identity, torch.zeros(0)]).repeat(count, 1))
        self.delta = nn.Parameter(
            torch.zeros(count, spec.rank * sum(spec.body.weights[name][0] for name in spec.deltas))
        )
        self.downs = nn.ParameterList(
            nn.Parameter(
                torch.linalg.svd(own[name].flatten(1), full_matrices=False).Vh[: spec.rank], requires_grad=False
            )
            for name in spec.deltas
        )
        flat = torch.cat([*(own[name].flatten() for name in spec.private), torch.zeros(0)])
        self.private = nn.Parameter(flat.repeat(count, 1))
        rows = count if spec.body.private_norms else 1
        self.affine = nn.Parameter(norm_rows(spec.body, own, "weight", "bias").repeat(rows, 1, 1))
        self.register_buffer("statistics", norm_rows(spec.body, own, "running_mean", "running_var").repeat(rows, 1, 1))
        weight, bias = own[head[0]], torch.zeros(len(classes)) if head[1] is None else own[head[1]]
        self.heads = nn.ParameterList(weight.clone() for _ in range(0 if self._tied else count))
        self.biases = nn.ParameterList(bias.clone() for _ in range(count if head[1] else 0))
        self.eval()

    def train(self, mode: bool = True) -> Wrapped:
        """Switch BN and dropout of the module to training or evaluation."""
        super().train(mode)
        self._module[0].train(mode)
        return self

    def own_parameters(self, *, shared: bool = False) -> Iterator[nn.Parameter]:
        """Return the parameters of the tasks, or with ``shared`` those that all tasks share."""
        common = {
            *map(id, (*self.shared, *self.templates, *self.downs)),
            *([] if self.spec.body.private_norms else [id(self.affine)]),
        }
        return (
            parameter for parameter in self.parameters() if parameter.numel() and (id(parameter) in common) == shared
        )

    def forward(self, x: Tensor, task: str | None = None) -> Tensor:
        """Run the module with a task's parameters: samples, or features of a front, (n, …) → logits (n, classes); the first task by default."""
        row = self._row(task)
        return cast(Tensor, functional_call(self._module[0], self._parameters_of(row), (x,)))

    def _row(self, task: str | None) -> int:
        if task is not None and task not in self._tasks:
            raise UsageError(f"there is no task {task!r}; the module was wrapped for {', '.join(self._tasks)}")
        return 0 if task is None else self._tasks.index(task)

    def _parameters_of(self, row: int) -> dict[str, Tensor]:
        spec, found = self.spec, dict(zip(self.spec.shared, self.shared, strict=True))
        found |= spec.body.split(self.private[row], spec.private)
        for group, templates, rows in zip(
            spec.groups, self.templates, spec.coefficients(self.mixture[row]), strict=True
        ):
            found |= dict(zip(group, (rows @ templates.flatten(1)).reshape(templates.shape).unbind(), strict=True))
        for (name, up), down in zip(spec.ups(self.delta[row]).items(), self.downs, strict=True):
            found[name] = found[name] + (up @ down).reshape(found[name].shape)
        start, place = 0, row if spec.body.private_norms else 0
        has = parameters_of(self._module[0])
        for norm in spec.body.norms:
            end = start + norm.channels
            for what, values in (
                ("weight", self.affine[place, 0]),
                ("bias", self.affine[place, 1]),
                ("running_mean", self.statistics[place, 0]),
                ("running_var", self.statistics[place, 1]),
            ):
                if f"{norm.name}.{what}" in has:
                    found[f"{norm.name}.{what}"] = values[start:end]
            start = end
        weight, bias = self._head
        if not self._tied:
            found[weight] = self.heads[row]
        if bias is not None:
            found[bias] = self.biases[row]
        return found

    def weights(self, task: str) -> dict[str, Array]:
        """Return the weights of the body for a task, as ``Graph.fold`` does."""
        return ModuleNetwork(self.spec, self._arrays()).fold(self._parts(self._row(task)))

    def _arrays(self) -> dict[str, Array]:
        spec = self.spec
        found: dict[str, Array] = {"body": np.frombuffer(self._file, dtype=np.int8)}
        found |= {"front": np.frombuffer(self._front, dtype=np.int8)} if self._front else {}
        found |= {f"shared.{name}": _array(value) for name, value in zip(spec.shared, self.shared, strict=True)}
        found |= {f"templates{number:02d}": _array(value) for number, value in enumerate(self.templates)}
        found |= {f"down.{name}": _array(down) for name, down in zip(spec.deltas, self.downs, strict=True)}
        if spec.body.norms and not spec.body.private_norms:
            found |= {"bn.affine": _array(self.affine[0]), "bn.statistics": _array(self.statistics[0])}
        return found

    def _parts(self, row: int) -> dict[str, Array]:
        spec, found = self.spec, dict[str, Array]()
        if spec.groups:
            found["mixture"] = _array(self.mixture[row])
        if spec.deltas:
            found["delta"] = _array(self.delta[row])
        if spec.private:
            found["private"] = _array(self.private[row])
        if spec.body.norms and spec.body.private_norms:
            found |= {"bn.affine": _array(self.affine[row]), "bn.statistics": _array(self.statistics[row])}
        weight = dict(zip(spec.shared, self.shared, strict=True))[self._head[0]] if self._tied else self.heads[row]
        bias = self.biases[row] if self._head[1] else torch.zeros(len(self._classes))
        return {**found, "logits.weight": _array(weight), "logits.bias": _array(bias)}

    def bundle(self, training: Mapping[str, Any] | None = None) -> Bundle:
        """Make a bundle, not yet on disk, with one signature per task.

        Args:
            training: How it was trained, as JSON types, to be recorded in the bundle.
        """
        arrays = self._arrays()
        digest = template_digest(self.spec, arrays)
        signatures = {
            task: Signature(
                parts=self._parts(row), template=digest, task=task, labels=self._classes, kind=self.spec.kind
            )
            for row, task in enumerate(self._tasks)
        }
        return Bundle.create(
            spec=self.spec,
            tensors=arrays,
            signatures=signatures,
            training={**(training or {}), "torch_max_abs_diff": self.gap},
        )


def _array(value: Tensor) -> Array:
    found: Array = np.ascontiguousarray(value.detach().numpy())
    return found
