"""One run of MUIR's cross-modal table: some domains together, by one way of sharing, in a budget of steps that is the same for all ways.

plain        the domains' own modules (the paper's baseline)
muir         blocks of hypermodules, with the search
classical    the i-th block of every network is the same one, times the deviation of its layer (hierarchical sharing)
adapters     as classical, and every layer has a product of two matrices of rank 4 added that is its own (parallel adapters; the paper
             does not say what they are for networks that are not convolutional)
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.alignment.domains import Domain, domain
from isoform.train.device import device_named, exact, told_of
from isoform.train.kinds.alignment.network import AlignedNetworks, Subject, Weights
from isoform.train.kinds.alignment.search import Search
from isoform.train.kinds.alignment.sharing import subsets
from isoform.train.measuring.best import Best

__all__ = ["Networks", "learned", "made"]

RATE, SCORE_RATE = 1e-3, 0.1
RANK = 4
FIRST = 2
"""Generations without challengers at the start."""


class Networks(nn.Module):
    """Modules and where their weights come from."""

    def __init__(self, way: str, subjects: Mapping[str, Subject], *, context: int, generator: torch.Generator) -> None:
        super().__init__()
        self.way, self.search = way, Search(share=0.5, challengers=1, alpha=0.5)
        self.plain = nn.ModuleList(subject.module for subject in subjects.values()) if way == "plain" else None
        self.aligned = (
            None
            if way == "plain"
            else AlignedNetworks(
                subjects,
                m=16,
                n=16,
                context=context if way == "muir" else 0,
                search=self.search,
                initial="fresh",
                generator=generator,
            )
        )
        if way in ("classical", "adapters"):
            self._share(way, generator)

    def _share(self, way: str, generator: torch.Generator) -> None:
        assert self.aligned is not None
        blocks = self.aligned.hypermodules
        self.places = torch.cat([torch.arange(place.stop - place.start) for place in self.aligned.slices()])
        self.deviations = blocks.deviations
        blocks.requires_grad_(False)
        self.blocks = nn.Parameter(torch.randn(int(self.places.max()) + 1, 256, generator=generator))
        cuts = [cut for some in self.aligned.cuts for cut in some.values()] if way == "adapters" else []
        self.down = nn.ParameterList(
            torch.randn(RANK, cut.fan_in, generator=generator) / math.sqrt(cut.fan_in) for cut in cuts
        )
        self.up = nn.ParameterList(torch.zeros(cut.shape[0], RANK) for cut in cuts)

    def weights(self) -> Sequence[Weights]:
        """Make the weights of all modules."""
        if self.aligned is None:
            return [{}] * len(self.plain or ())
        if self.way == "muir":
            return self.aligned.weights()
        blocks, found, start, layer = (
            self.blocks[self.places] * self.deviations.to(self.blocks.device)[:, None],
            list[Weights](),
            0,
            0,
        )
        for cuts in self.aligned.cuts:
            some = {}
            for name, cut in cuts.items():
                some[name] = cut.weight(blocks[start : start + cut.count])
                start += cut.count
                if self.way == "adapters":
                    some[name] = some[name] + (self.up[layer] @ self.down[layer]).reshape(cut.shape)
                    layer += 1
            found.append(some)
        return found

    def call(self, place: int, weights: Weights, x: Tensor, **options: Any) -> Any:
        """Run a module."""
        module = self.plain[place] if self.plain is not None else self.aligned.networks[place]  # type: ignore[union-attr]
        return functional_call(module, dict(weights), (x.to(next(module.parameters()).device),), options)

    def groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's groups."""
        scores = [] if self.way != "muir" else [self.aligned.hypermodules.scores]  # type: ignore[union-attr]
        rest = [
            value for value in self.parameters() if value.requires_grad and not any(value is score for score in scores)
        ]
        return [{"params": rest, "lr": RATE}, *({"params": [score], "lr": SCORE_RATE} for score in scores)]

    def state(self) -> list[Tensor]:
        """Return what a state consists of."""
        scores = [] if self.way != "muir" else [self.aligned.hypermodules.alignment]  # type: ignore[union-attr]
        return [*(value for value in self.parameters() if value.requires_grad), *scores]

    @contextlib.contextmanager
    def calls(self) -> Any:
        """Provide each module with its weights, without gradients and dropout."""
        self.eval()
        with torch.no_grad():
            weights = self.weights()
            yield [functools.partial(self.call, place, some) for place, some in enumerate(weights)]
        self.train()


def made(
    way: str, names: Sequence[str], seed: int, context: int, data: str, few: bool
) -> tuple[Networks, list[Domain]]:
    """Make the networks of some domains."""
    torch.manual_seed(seed)
    domains = [domain(name, data, few) for name in names]
    subjects = {name: each.subject() for name, each in zip(names, domains, strict=True)}
    networks = Networks(way, subjects, context=context, generator=torch.Generator().manual_seed(seed))
    return networks.train(), domains


def step_of(
    networks: Networks, domains: Sequence[Domain], optimizer: torch.optim.Optimizer, step: int
) -> Callable[[], None]:
    """Return one step of training as a function."""

    def run() -> None:
        optimizer.zero_grad()
        weights, total = networks.weights(), torch.zeros(())
        for place, each in enumerate(domains):
            total = total + each.loss(step, functools.partial(networks.call, place, weights[place]))
        total.backward()
        optimizer.step()

    return run


def learned(
    way: str,
    names: Sequence[str],
    seed: int,
    steps: int,
    generation: int,
    final: int,
    context: int,
    data: str,
    few: bool,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train some domains together.

    Args:
        way: See the module.
        names: Domains.
        seed: Of everything random.
        steps: One batch of every domain each.
        generation: Steps of a generation; validation is at the end of each.
        final: Generations at the end without challengers.
        context: c.
        data: Folder of the data sets.
        few: Whether to use a small part of them.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``metrics``: domain → metric on test samples, in the state with the least mean validation loss; ``validation``: that loss;
        ``generation``: when that was; ``shared``: modules used by each set of domains; ``seconds``.
    """
    torch.set_num_threads(1)
    exact(device_named(device))
    networks, domains = made(way, names, seed, context, data, few)
    networks.to(device)
    began, optimizer, best, when = (
        time.process_time(),
        torch.optim.Adam(networks.groups(), fused=True),
        Best(networks.state()).to(device),
        0,
    )
    generations = -(-steps // generation)
    for step in range(steps):
        number = step // generation
        if step % generation == 0 and way == "muir" and FIRST <= number < generations - final:
            assert networks.aligned is not None
            networks.search.challenge(networks.aligned.hypermodules, optimizer)
        step_of(networks, domains, optimizer, step)()
        if (step + 1) % generation == 0 or step + 1 == steps:
            if way == "muir":
                assert networks.aligned is not None
                networks.search.settle(networks.aligned.hypermodules)
            with networks.calls() as calls:
                losses = [each.validated(call) for each, call in zip(domains, calls, strict=True)]
            if -np.mean(losses) > float(best.score):
                when = number + 1
            best.keep(networks.state(), -float(np.mean(losses)))
    best.restore(networks.state())
    if networks.aligned is not None:
        networks.aligned.hypermodules.changed()
    with networks.calls() as calls:
        metrics = {name: each.tested(call) for name, each, call in zip(names, domains, calls, strict=True)}
    shared = {}
    if way == "muir":
        assert networks.aligned is not None
        shared = subsets(
            networks.aligned.hypermodules.alignment.cpu().numpy(),
            dict(zip(names, networks.aligned.slices(), strict=True)),
        )
    return {
        "device": told_of(torch.device(device)).get("device", "processor"), "metrics": metrics, "validation": -float(best.score),
        "generation": when, "shared": shared, "seconds": time.process_time() - began,
    }  # fmt: skip
