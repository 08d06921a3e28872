"""Any networks, of which chosen weights are made of blocks that the same hypermodules generate.

The modules are not rewritten: each is called with the generated weights in place of its own (``torch.func.functional_call``). All else that
they have stays theirs: first layers, embeddings, biases, BN, logits layers.

Source: MUIR, sections 3.1 and 4.2, equations 4 and 5.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from isoform.runtime.errors import SpecError
from isoform.runtime.inputs import Input
from isoform.runtime.kinds.alignment.packing import Cut
from isoform.train.kinds.alignment.hypermodules import Hypermodules
from isoform.train.kinds.alignment.search import Search
from isoform.train.measuring.best import Best
from isoform.train.modules.checks import checked_module, input_from
from isoform.train.modules.export import parameters_of
from isoform.train.modules.outline import Outline, outlined
from isoform.train.modules.sources import layer_weights

__all__ = ["AlignedNetworks", "Subject", "Weights"]

Weights = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """One task and the module that is to do it. Arguments as for ``isoform.train.modules.wrap``."""

    module: nn.Module
    example: Tensor
    classes: Sequence[str]
    aligned: Sequence[str] | None = None
    """Names of the weights that blocks make. None for those of linear, convolutional, recurrent and attention layers whose inputs and
    outputs the blocks divide, but for the logits layer."""
    private: Sequence[str] = ("norm", "bias")
    """What is in signatures, and not the same for all users of the task."""
    input_name: str | None = None
    vocabulary: int | None = None
    lengths: tuple[int, int] | None = None


class AlignedNetworks(nn.Module):
    """The networks of all tasks.

    Args:
        subjects: Task → its module; copied.
        m: Inputs of a block.
        n: Outputs of a block.
        context: c, length of a context; 0 to share blocks as they are.
        search: Says how many locations are challenged at a time, and by how many.
        initial: ``own`` begins with the modules' own weights, ``fresh`` with random blocks of the variance of He et al. (2015), as the
            paper does.
        generator: Random generator for hypermodules.

    Attributes:
        hypermodules: The blocks of all aligned weights.
        networks: The modules, in the order of tasks.
        takes: Each task's input.
        best: The best state so far; nothing before ``remember``.
        recorded: The alignment at some times, shape (times, L), int32; none before ``remember``.
        outlines: Each task's body, and where its weights come from.
        cuts: Each task's aligned weights, name → cut.

    Raises:
        SpecError: If a module cannot be wrapped, or has nothing to align.
        CompileError: If one cannot be exported.
    """

    def __init__(
        self, subjects: Mapping[str, Subject], *, m: int, n: int, context: int, search: Search, initial: Literal["own", "fresh"], generator: torch.Generator
    ) -> None:  # fmt: skip
        super().__init__()
        self.m, self.n, self.context, self.tasks = m, n, context, tuple(subjects)
        self.classes = {task: tuple(subject.classes) for task, subject in subjects.items()}
        self.examples = {task: subject.example for task, subject in subjects.items()}
        self.takes: list[Input] = []
        self.outlines: list[Outline] = []
        self.cuts: list[dict[str, Cut]] = []
        self.networks = nn.ModuleList()
        for task, subject in subjects.items():
            self._add(task, subject)
        magnitudes = [self._magnitudes(place, initial) for place in range(len(self.tasks))]
        locations = sum(map(len, magnitudes))
        self.hypermodules = Hypermodules(
            torch.cat(magnitudes), context=context, block=m * n, challenged=search.challenged(locations), challengers=search.challengers,
            generator=generator,
        )  # fmt: skip
        if initial == "own":
            self.hypermodules.begin_from(torch.cat([self._own_blocks(place) for place in range(len(self.tasks))]))
        self.best = Best(())
        self.recorded: Tensor
        self.register_buffer("recorded", torch.zeros((0, locations), dtype=torch.int32))
        self.eval()

    def remember(self, *, times: int, best: bool) -> None:
        """Make room for a record of so many alignments, and for the best state."""
        self.recorded = self.recorded.new_zeros((times, self.recorded.shape[1]))
        self.best = Best(self.state() if best else ())

    def _add(self, task: str, subject: Subject) -> None:
        """Export a task's module, and cut its weights."""
        module = copy.deepcopy(subject.module)
        checked_module(module)
        takes = input_from(
            subject.example, name=subject.input_name, vocabulary=subject.vocabulary, lengths=subject.lengths, module=module
        )  # fmt: skip
        shapes = {name: tuple(value.shape) for name, value in parameters_of(module).items()}
        if subject.aligned is None:
            names = [name for name in shapes if name in layer_weights(module) and self._divides(shapes[name])]
        else:
            names = [*subject.aligned]
            if wrong := [name for name in names if len(shapes.get(name, ())) < 2]:
                raise SpecError(
                    f"task {task!r}: aligned names {wrong[0]!r}, but weights of two axes or more were expected"
                )

        def kept(head: tuple[str, str | None]) -> list[str]:
            return [name for name in names if name not in head]

        outline = outlined(
            module, subject.example, takes, classes=subject.classes, private=subject.private, differing=kept
        )  # fmt: skip
        names = [name for name in kept(outline.head) if name in outline.body.weights]
        both = {*names} & {*outline.sources.private}
        if both or not names:
            what = (
                f"{min(both)!r} is private as well" if both else "no weight has inputs and outputs that blocks divide"
            )
            raise SpecError(
                f"task {task!r}: {what}; name weights of two axes or more in aligned, or choose other blocks than {self.m}×{self.n}"
            )
        own = dict(module.named_parameters())
        for name in names:
            own[name].requires_grad_(False)
        self.networks.append(module)
        self.takes.append(takes)
        self.outlines.append(outline)
        self.cuts.append({name: Cut(shapes[name], self.m, self.n) for name in names})

    def _divides(self, shape: Sequence[int]) -> bool:
        return len(shape) > 1 and shape[0] % self.n == 0 and shape[1] % self.m == 0

    def _magnitudes(self, place: int, initial: str) -> Tensor:
        """Return the standard deviation of the weights at every location of a task at the start, shape (L,)."""
        module, found = self.networks[place], []
        recurrent = {
            f"{prefix}.{name}" if prefix else name: part.hidden_size
            for prefix, part in module.named_modules() if isinstance(part, nn.RNNBase) for name, _ in part.named_parameters()
        }  # fmt: skip
        own = dict(module.named_parameters())
        for name, cut in self.cuts[place].items():
            if initial == "own":
                sigma = max(float(own[name].detach().std(unbiased=False)), 1e-3)
            else:
                sigma = math.sqrt(1 / recurrent[name] if name in recurrent else 2 / cut.fan_in)
            found.append(torch.full((cut.count,), sigma))
        return torch.cat(found)

    def _own_blocks(self, place: int) -> Tensor:
        own = dict(self.networks[place].named_parameters())
        return torch.cat(
            [torch.from_numpy(cut.blocks(own[name].detach().numpy())) for name, cut in self.cuts[place].items()]
        )

    def own_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of the modules that are trained: all that blocks do not make."""
        return (parameter for parameter in self.networks.parameters() if parameter.requires_grad)

    def state(self) -> list[Tensor]:
        """Return everything that a state of the networks consists of: parameters, BN's statistics, hypermodules, contexts, alignment."""
        blocks = self.hypermodules
        buffers = [value for module in self.networks for value in module.buffers()]
        return [*self.own_parameters(), *buffers, blocks.tensors, blocks.contexts, blocks.alignment]

    def weights(self) -> Sequence[Weights]:
        """Generate the aligned weights of all tasks, in the order of tasks; differentiable."""
        blocks, found, start = self.hypermodules.blocks(), [], 0
        for cuts in self.cuts:
            made = {}
            for name, cut in cuts.items():
                made[name] = cast(Tensor, cut.weight(blocks[start : start + cut.count]))
                start += cut.count
            found.append(made)
        return found

    def run(self, task: int, x: Tensor, weights: Weights, **options: Any) -> Any:
        """Call a task's module with weights that ``weights`` made for it; ``options`` are the module's own."""
        return functional_call(self.networks[task], dict(weights), (x,), options)

    def forward(self, x: Tensor, task: int) -> Tensor:
        """Samples (n, …) → logits (n, classes) of a task. Generates the weights of all tasks: for more than one call use ``run``."""
        return cast(Tensor, self.run(task, x, self.weights()[task]))

    def slices(self) -> list[slice]:
        """Return each task's place among the locations."""
        found, start = [], 0
        for cuts in self.cuts:
            end = start + sum(cut.count for cut in cuts.values())
            found.append(slice(start, end))
            start = end
        return found
